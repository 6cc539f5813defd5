"""Every value that a person types after `make` reaches Python whole, and the shell runs nothing in it."""

import pytest
from run_make import clone, run_make

from pipeline.common import cli

HOSTILE = {
    "spaces": "a  b ", "tab": "a\tb", "line end": "a\nb", "apostrophe": "it's", "quotes": 'say "hi"',
    "dollar": "$HOME", "dollars": "a$$b$", "braces": "${HOME}", "command": "$(touch x)", "backticks": "`touch x`",
    "make shell": "$(shell touch x)", "make error": "$(error x)", "make own": "$(DATA)$@", "hash": "a#b",
    "ampersand": "R&D", "two": "a && touch x", "semicolon": "a;touch x", "pipe": "a|touch x", "into": "a>x",
    "from": "a<b", "stars": "*?[a]", "list": "{a,b}", "home": "~", "history": "!x", "backslashes": "a\\b\\\\c\\",
    "percent": "100%s%", "unicode": "\u65e5\u672c \u00e9", "decomposed": "e\u0301", "not UTF-8": "caf\udce9",
    "dash": "-rf", "flag": "--help", "equals": "a=b", "comma": "a,b", "brackets": ")a(b", "colon": "a:b", "at": "@x",
}  # fmt: skip
SETTINGS = {"CONFIG": "--config", "DATA": "--preprocess.data_root", "NAME": "--preprocess.dataset",
            "STORE": "--preprocess.store"}  # fmt: skip
VERBS = {
    "manifests": ("pipeline.manifests", SETTINGS),
    "estimate": ("pipeline.estimate", SETTINGS),
    "preprocess": ("pipeline.preprocess", SETTINGS),
    "verify": ("pipeline.verify", SETTINGS),
    "train": ("train.train", {**SETTINGS, "WEIGHTS": "--train.pretrained_model"}),
    "eval": (
        "train.evaluate",
        {
            **SETTINGS,
            "CKPT": "--eval.pretrained_model",
            "SPLIT": "--data_loader.eval.dataset.split",
            "OUT": "--eval.output_dir",
        },
    ),
    "features": (
        "train.features",
        {
            **SETTINGS,
            "CKPT": "--eval.pretrained_model",
            "SPLIT": "--data_loader.eval.dataset.split",
            "OUT": "--output-dir",
        },
    ),
    "infer": (
        "train.infer",
        {
            **SETTINGS,
            "CKPT": "--infer.pretrained_model",
            "VIDEO": "--infer.image_path",
            "SPLIT": "--split",
            "OUT": "--infer.output_dir",
        },
    ),
    "export": ("train.export", {**SETTINGS, "CKPT": "--export.pretrained_model"}),
    "report": ("train.report", {**SETTINGS, "CKPT": "--run", "OUT": "--output-dir"}),
    "doctor": ("train.doctor", SETTINGS),
    "convert": ("train.convert", {"CONFIG": "--config", "FROM": "", "TO": ""}),
}
VARIABLES = sorted({variable for _, keys in VERBS.values() for variable in keys})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return clone(tmp_path_factory.mktemp("R&D 'clone' $x"))


def values_of(hostile: str) -> dict[str, str]:
    """A value for each variable, with the hostile text at its beginning, in it and at its end."""
    return {variable: f"{hostile}{variable}{hostile}" for variable in VARIABLES}


def check_words(made, verb: str, values: dict[str, str]) -> None:
    module, keys = VERBS[verb]
    words = made.words(module)
    for variable, key in keys.items():
        assert (f"{key}={values[variable]}" if key else values[variable]) in words, (verb, variable)
    if verb == "convert":
        assert words[-3:] == ["--", values["FROM"], values["TO"]]
    if verb in ("train", "eval"):  # the checks before it see the same
        for call in made.calls:
            if call[:2] == ["-m", "train.check"]:
                assert {f"{key}={values[variable]}" for variable, key in SETTINGS.items()} <= set(call)


@pytest.mark.parametrize("name", HOSTILE)
def test_value_reaches_every_verb_whole(name, folder):
    values = values_of(HOSTILE[name])
    before = {path for path in folder.iterdir() if path.name != "calls"}
    made = run_make(folder, *VERBS, *(f"{variable}={value}" for variable, value in values.items()))
    assert made.code == 0, made.err
    for verb in VERBS:
        check_words(made, verb, values)
    assert {path for path in folder.iterdir() if path.name != "calls"} == before


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", HOSTILE)
def test_value_reaches_a_verb_alone_whole(name, verb, folder):
    values = {variable: value for variable, value in values_of(HOSTILE[name]).items() if variable in VERBS[verb][1]}
    made = run_make(folder, verb, *(f"{variable}={value}" for variable, value in values.items()))
    assert made.code == 0, made.err
    check_words(made, verb, values)
    assert not (folder / "x").exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_values_of_the_environment_are_whole(name, folder):
    values = {variable: f"{HOSTILE[name]}{variable}" for variable in ("DATA", "STORE", "CONFIG")}
    made = run_make(folder, "verify", **values)
    assert made.code == 0, made.err
    check = {f"{key}={values[variable]}" for variable, key in SETTINGS.items() if variable in values}
    assert check <= set(made.words("pipeline.verify"))


def test_names_other_programs_use_must_be_typed(folder):
    made = run_make(folder, "train", NAME="my-computer", OUT="/out", SPLIT="x", WEIGHTS="y")  # WSL sets NAME
    assert not any("my-computer" in word or "pretrained" in word for call in made.calls for word in call)


@pytest.mark.parametrize("name", sorted(HOSTILE.keys() - {"not UTF-8"}))  # Python refuses those
def test_args_are_split_in_python_only(name, folder):
    quoted = "'" + HOSTILE[name].replace("'", "'\"'\"'") + "'"
    flags = f"--preprocess.store={quoted} --train.ckpt_path={quoted} --resume auto"
    made = run_make(folder, "train", f"ARGS={flags}")
    assert made.code == 0, made.err
    whole = [f"--preprocess.store={HOSTILE[name]}", f"--train.ckpt_path={HOSTILE[name]}", "--resume", "auto"]
    assert cli.with_args(made.words("train.train"))[1:] == whole
    for module in ("pipeline.manifests", "pipeline.preprocess"):  # these only run because train needs them
        assert cli.with_args(made.words(module))[1:] == whole[:1]
    assert not (folder / "x").exists()


def test_several_verbs_share_overrides_but_no_flag(folder):
    made = run_make(folder, "preprocess", "train", "ARGS=--train.epochs=2 --preprocess.jobs=1")
    for module in ("pipeline.preprocess", "train.train"):
        assert cli.with_args(made.words(module))[1:] == ["--train.epochs=2", "--preprocess.jobs=1"]
    assert cli.with_args(made.words("pipeline.manifests"))[1:] == ["--preprocess.jobs=1"]
    made = run_make(folder, "preprocess", "train", "ARGS=--resume auto")
    with pytest.raises(cli.UserError, match=r"ARGS: got --resume for several verbs, expected only overrides"):
        cli.with_args(made.words("train.train"))


def test_args_with_an_open_quote_are_one_line():
    with pytest.raises(cli.UserError, match=r"ARGS: got --a='b, which cannot be split .*: No closing quotation"):
        cli.with_args(["--args=--a='b"])


@pytest.mark.parametrize(
    ("words", "config"),
    [
        ([], "sample"), (["DATA=/d"], "own"), (["DATA=/d", "WEIGHTS=w.ckpt"], "finetune"), (["WEIGHTS=w"], "sample"),
        (["DATA=/d", "CONFIG=train/configs/torchvision.yaml"], "torchvision"),
    ],
)  # fmt: skip
def test_configuration_depends_on_data_and_weights(words, config, folder):
    made = run_make(folder, "train", *words)
    configured = [[word for word in call if word.startswith("--config")] for call in made.calls[1 - bool(words) :]]
    assert made.code == 0 and f"--config=train/configs/{config}.yaml" in made.words("train.train")
    assert len({tuple(each) for each in configured if each}) == 1
    assert any(call[:2] == ["-m", "pipeline.sample"] for call in made.calls) == (config == "sample")


def test_places_are_only_passed_when_given(folder):
    made = run_make(folder, "train", "NAME=n")
    assert made.words("train.train") == ["--config=train/configs/sample.yaml", "--preprocess.dataset=n"]
    for verb in ("eval", "features", "infer", "export", "report"):  # they look for the newest run of all themselves
        given = ["VIDEO=v"] if verb == "infer" else []
        words = run_make(folder, verb, "NAME=n", *given).words(VERBS[verb][0])
        assert words == ["--preprocess.dataset=n", *(["--infer.image_path=v"] if given else [])]
        words = run_make(folder, verb, "DATA=d", *given).words(VERBS[verb][0])
        assert words[:2] == ["--config=train/configs/own.yaml", "--preprocess.data_root=d"]


@pytest.mark.parametrize(
    ("words", "variable", "takers"),
    [(["export", "OUT=x"], "OUT", "eval features infer report"), (["train", "FROM=x"], "FROM", "convert"),
     (["export", "SPLIT=val"], "SPLIT", "eval features infer"), (["verify", "DEVICES=2"], "DEVICES", "train eval")],
)  # fmt: skip
def test_variable_that_no_verb_takes_is_refused(words, variable, takers, folder):
    made = run_make(folder, *words)
    assert made.code == 2 and made.calls == []
    assert f"{variable}: got a value, but only these verbs take it: {takers}." in made.err


def test_devices_and_port_are_words_too(folder):
    words = run_make(folder, "train", "DEVICES=2;touch x", "PORT=`touch x`").words("train.msrun")
    assert words[:2] == ["--devices=2;touch x", "--port=`touch x`"] and not (folder / "x").exists()
    assert run_make(folder, "eval", "DEVICES=3").words("train.msrun")[:2] == ["--program=evaluate", "--devices=3"]


def test_only_the_asked_verb_prints_on_stdout(folder):
    made = run_make(folder, "-s", "manifests", "ARGS=--json")
    assert made.out == "out of pipeline.manifests\n"
    assert "out of pipeline.sample" in made.err
    assert run_make(folder, "-s", "train").out == "out of train.train\n"


def test_checks_run_before_and_after_the_ledgers(folder):
    calls = [call[1] for call in run_make(folder, "train", "DATA=/d").calls]
    assert calls == ["train.check", "pipeline.manifests", "train.check", "pipeline.preprocess", "train.train"]
    made = run_make(folder, "preprocess", "train", "DATA=/d")
    assert [call[1] for call in made.calls] == calls
    assert "--with-ledgers" in made.calls[2] and "--with-ledgers" not in made.calls[0]
    for verb in ("features", "infer"):  # the checkpoint is looked at before anything is decoded
        made = run_make(folder, verb, "SPLIT=val", "DATA=/d", "CKPT=c", "ARGS=--top-k 3")
        assert [call[1] for call in made.calls] == [*calls[:-1], f"train.{verb}"]
        assert {f"--for={verb}", "--args=--top-k 3"} <= set(made.calls[2])
    assert [call[1] for call in run_make(folder, "infer", "VIDEO=v", "DATA=/d").calls] == ["train.infer"]
    assert [call[1] for call in run_make(folder, "eval", "DATA=/d").calls[-2:]] == ["pipeline.preprocess",
                                                                                   "train.evaluate"]  # fmt: skip
