"""What a command prints and logs cannot act on the terminal, whichever line of code prints it."""

import io
import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_ledgers import touch
from tqdm import tqdm

from pipeline import manifests
from pipeline.common import cli
from pipeline.common.errors import UserError
from pipeline.common.streams import escaped_streams
from pipeline.common.text import visible

EVIL = "\x1b[2J\x1b]0;title\x07\x9b31m\r\x08\u202egnp.exe\u2066\ufeff\u200b\ud800\x7f"
SHOWN = r"\x1b[2J\x1b]0;title\x07\x9b31m\r\x08\u202egnp.exe\u2066\ufeff\u200b\ud800\x7f"


def test_what_acts_on_a_terminal_is_escaped():
    assert visible(EVIL) == SHOWN
    for text in ("a\n\tb", "Zürich 東京 Ελλάδα", "می\u200cخواهم", "👩\u200d🔬", "e\u0301", r"\x1b"):
        assert visible(text) == text


@given(st.text())
def test_escaped_text_can_be_printed_and_stays(text):
    shown = visible(text)
    assert visible(shown) == shown and shown.encode().decode() == shown
    assert not set(shown) & {chr(number) for number in [*range(9), *range(11, 32), *range(127, 160)]}


@pytest.mark.parametrize("where", ["stdout", "stderr", "log", "error", "error log"])
def test_no_call_site_can_print_raw_text(where, capsys, tmp_path):
    log_file = tmp_path / "train.log"

    def main():
        cli.set_up_logging()
        handler = logging.FileHandler(log_file, encoding="utf-8")
        logging.getLogger().addHandler(handler)
        if where == "log":
            logging.getLogger("x").info("label %s", EVIL)
        elif where == "error":
            raise UserError(f"label {EVIL}")
        elif where == "error log":
            try:
                raise ValueError(EVIL)
            except ValueError:
                logging.getLogger("x").exception("label %s", EVIL)
        else:
            print(f"label {EVIL}", file=getattr(sys, where))
        logging.getLogger().removeHandler(handler)
        handler.close()
        return 0

    before = sys.stdout, sys.stderr
    with pytest.raises(SystemExit):
        cli.run(main)
    assert (sys.stdout, sys.stderr) == before
    printed = "".join(capsys.readouterr())
    assert f"label {SHOWN}" in printed and "\x1b" not in printed and "\u202e" not in printed
    if "log" in where:
        assert f"label {SHOWN}" in log_file.read_text(encoding="utf-8")


def test_a_progress_bar_still_moves():
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        with escaped_streams():
            with tqdm(total=2, desc="outer", position=1) as outer, tqdm(total=2, mininterval=0) as bar:
                bar.update()
                outer.update()
            print("\x1b[31m\r", file=sys.stderr)
    assert "\r" in stream.getvalue() and "\x1b[A" in stream.getvalue() and "\\x1b[A" not in stream.getvalue()
    assert "\x1b[31m" not in stream.getvalue()


def test_labels_of_a_stranger_are_shown_escaped(tmp_path, capsys):
    root = tmp_path / "data"
    touch(root, "a.mp4")
    (root / "train.csv").write_text("path,label\na.mp4,\x1b[2Jx\u202e\ngone.mp4,\x1b[31my\n", encoding="utf-8")
    words = [f"--preprocess.{key}={tmp_path}/{key}" for key in ("manifests", "store")]
    words += [f"--preprocess.data_root={root}", "--preprocess.dataset=d"]
    (tmp_path / "c.yaml").write_text("{}")
    for extra in ([], ["--check"], ["--json"]):
        with pytest.raises(SystemExit) as end:
            cli.run(lambda extra=extra: manifests.main(["-c", str(tmp_path / "c.yaml"), *words, *extra]))
        out, err = capsys.readouterr()
        assert end.value.code == 0 and not set("\x1b\u202e") & set(out + err)
        if "--json" in extra:
            assert [each["label"] for each in json.loads(out)["splits"]["train"]["classes"]] == [
                "\x1b[2Jx\u202e",
                "\x1b[31my",
            ]
        else:
            assert r"\x1b[31my" in out + err
