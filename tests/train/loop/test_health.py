"""A training that no longer learns stops with a message."""

import pytest

from train.loop.health import (
    FiniteLosses,
    NotFiniteError,
    OutOfMemoryError,
    evaluation_memory_errors,
    training_memory_errors,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("steps", "ends_at", "said"),
    [  # of each step: (loss, skipped updates in a row, whether the loss scale can fall)
        (
            [(NAN, 1, False), (1.0, 0, False), (NAN, 1, False), (NAN, 2, False), (float("inf"), 3, False)],
            5,
            "Loss is inf",
        ),
        ([(1.0, 1, False), (1.0, 2, False), (1.0, 3, False)], 3, "no weight has changed for 3 steps in a row"),
        ([(1.0, 1, True), (1.0, 2, True), (1.0, 3, True), (1.0, 4, False)], 4, "no weight has changed for 4 steps"),
        ([(1.0, 1, True), (1.0, 2, True), (1.0, 3, True), (1.0, 0, True)], None, ""),
        ([(NAN, 1, True), (NAN, 2, True), (NAN, 3, True)], 3, "Loss is nan at step 3"),
    ],
)
def test_training_gives_up_when_no_weight_moves(steps, ends_at, said, caplog):
    finite = FiniteLosses(limit=3)
    for step, (loss, left_out, scale_can_fall) in enumerate(steps, 1):
        if step == ends_at:
            with pytest.raises(NotFiniteError, match=said):
                finite.check(loss, step, left_out, scale_can_fall=scale_can_fall)
        else:
            finite.check(loss, step, left_out, scale_can_fall=scale_can_fall)
        assert (f"step {step}: " in caplog.text) == bool(left_out)
    assert ends_at in (None, len(steps))


def test_no_memory_in_pynative_mode_is_one_line():
    of_mindspore = (
        "Allocate memory failed\n\n-----\n- C++ Call Stack: (For framework developers)\n-----\nmindspore/x.cc"
    )
    for errors_of, loader in ((training_memory_errors, "train"), (evaluation_memory_errors, "eval")):
        message = rf"^data_loader\.{loader}\..*batch_size: got 8, .* \(Allocate memory failed\)\. Halve it"
        with pytest.raises(OutOfMemoryError, match=message), errors_of(8):
            raise RuntimeError(of_mindspore)
    with pytest.raises(RuntimeError, match="of another kind"), training_memory_errors(8):
        raise RuntimeError("of another kind")
