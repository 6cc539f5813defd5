"""What `make infer VIDEO=` names becomes a list of videos with different names, or one line on what is expected."""

import csv
import os

import pytest

from pipeline.common.errors import UserError
from train.inference.inputs import find_inputs


def touch_all(folder, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch_all(tmp_path, "clips/x/1.mp4", "clips/y/1.MP4", "clips/y/2.webm", "clips/y/2.mkv", "clips/y/notes.txt")
    touch_all(tmp_path, "clips/.hidden/3.mp4", "clips/y/._2.mp4", "clips/z/readme")
    return tmp_path


def paths(text: str, output: str = "out") -> list[str]:
    return [str(each.path) for each in find_inputs(text, output)]


def test_folder_is_searched_and_names_keep_apart():
    inputs = find_inputs("clips", "out")
    assert [str(each.path) for each in inputs] == [f"clips/{p}" for p in ("x/1.mp4", "y/1.MP4", "y/2.mkv", "y/2.webm")]
    assert [each.name for each in inputs] == ["x/1", "y/1", "y/2.mkv", "y/2.webm"]


def test_one_file_is_itself_whatever_its_ending(inside):
    touch_all(inside, "film", "a.b.mp4")
    assert [(str(each.path), each.name) for each in find_inputs("film", "out")] == [("film", "film")]
    assert find_inputs("a.b.mp4", "out")[0].name == "a.b"


def test_existing_path_comes_before_a_glob(inside):
    touch_all(inside, "[4K] x.mp4", "4 x.mp4")
    assert paths("[4K] x.mp4") == ["[4K] x.mp4"]
    assert paths("[45] x.mp4") == ["4 x.mp4"]


def test_glob_takes_videos_and_folders():
    assert paths("clips/*/1.*") == ["clips/x/1.mp4", "clips/y/1.MP4"]
    assert paths("clips/[xy]") == paths("clips")
    assert paths("clips/**/2.*") == ["clips/y/2.mkv", "clips/y/2.webm"]


def test_links_are_followed_and_a_ring_of_them_ends(inside):
    touch_all(inside, "elsewhere/sub/5.mp4")
    for link, target in (("x/up", "../.."), ("y/up", ".."), ("x/other", "../y"), ("y/far", "../../elsewhere")):
        (inside / "clips" / link).symlink_to(target)
    plain = ["clips/x/1.mp4", "clips/y/1.MP4", "clips/y/2.mkv", "clips/y/2.webm"]
    for text in ("clips", "clips/**", "clips/**/*.*", "**/clips", f"{inside}/**/clips/*"):
        found = [os.path.relpath(path, inside) for path in paths(text)]
        assert {os.path.realpath(path) for path in found} >= {os.path.realpath(path) for path in plain}
        assert len({os.path.realpath(path) for path in found}) == len(found), "each video comes once"
        assert "sub/5.mp4" in " ".join(found)
    assert paths("clips")[:4] == plain
    assert paths("clips/**/sub/*") == ["clips/x/up/elsewhere/sub/5.mp4"]


def test_list_may_have_comments(inside):
    touch_all(inside, "#1.mp4")
    (inside / "list.txt").write_text("# the best\n#1.mp4\nclips/x/1.mp4\n#gone.mp4\n")
    assert paths("list.txt") == ["#1.mp4", "clips/x/1.mp4"]


def test_list_names_videos_beside_it_or_here(inside):
    touch_all(inside, "here.mp4")
    (inside / "clips" / "list.txt").write_text("\ufeffx/1.mp4\n\nhere.mp4\r\nx/1.mp4\ngone.mp4\n", encoding="utf-8")
    assert paths("clips/list.txt") == ["clips/x/1.mp4", "here.mp4", "gone.mp4"]  # one that is missing becomes a row


def test_list_with_labels_has_true_labels(inside):
    (inside / "list.csv").write_text('Label,path\n"a, b",clips/x/1.mp4\n,clips/y/1.MP4\n')
    assert [each.true_label for each in find_inputs("list.csv", "out")] == ["a, b", None]


def test_list_keeps_odd_names_whole(inside):
    names = ["a\x0cb.mp4", "c\u2028d.mp4", "e\x85f.mp4", '"g.mp4', "$h %d.mp4"]
    touch_all(inside, *names)
    (inside / "list.txt").write_text("\r\n".join(names), encoding="utf-8")
    assert paths("list.txt") == names
    (inside / "list.csv").write_text("path\n" + "\n".join(f'"{name.replace(chr(34), 2 * chr(34))}"' for name in names))
    assert paths("list.csv") == names


def test_endless_line_of_a_list_is_one_line(inside):
    before = csv.field_size_limit(100)  # MindSpore raises it to 10 MiB
    try:
        (inside / "list.csv").write_text(f"path\n{'x' * 101}\n")
        with pytest.raises(UserError, match=r"list\.csv: field larger than field limit \(100\), expected a list with"):
            find_inputs("list.csv", "out")
    finally:
        csv.field_size_limit(before)


def test_own_pictures_are_no_inputs(inside):
    touch_all(inside, "clips/out/x/1-predicted.mp4", "clips/x/9-predicted.mp4")
    assert "clips/out/x/1-predicted.mp4" not in paths("clips", "clips/out")
    assert "clips/x/9-predicted.mp4" in paths("clips", "clips/out")
    assert paths("clips/out/x/1-predicted.mp4", "clips/out") == ["clips/out/x/1-predicted.mp4"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"got '', expected a video file \(mp4, .*\), a folder, a list file or a glob\. Run `make infer VIDEO="),
        ("https://youtu.be/x", r"got the URL https://youtu\.be/x, expected .*\. Download it first\."),
        ("0", r"got 0, the number of a camera, expected .*\. Record a file first\."),
        ("cat.JPG", r"got 'cat\.JPG', an image, expected .*\. Name a video\."),
        ("song.mp3", r"got 'song\.mp3', audio, expected "),
        ("gone.mp4", r"got 'gone\.mp4', which does not exist, expected .*\. Correct the path\."),
        ("clips/z", r"got 'clips/z', a folder without a video \(\.mp4, "),
        ("*.mov", r"got '\*\.mov', a glob that matches no video"),
        ("empty.txt", r"got 'empty\.txt', a list without a video"),
        ("pipe", r"got 'pipe', not a regular file, expected "),
        ("/dev/null", r"got '/dev/null', a device, such as a camera, expected "),
        ("ring.mp4", r"got 'ring\.mp4': Too many levels of symbolic links, expected "),
        ("binary.txt", r"binary\.txt: not a text in UTF-8, expected a list with one path a line"),
    ],
)
def test_anything_else_is_one_line(inside, text, words):
    touch_all(inside, "cat.JPG", "song.mp3", "empty.txt")
    os.mkfifo("pipe")
    os.symlink("ring.mp4", "ring.mp4")
    (inside / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=words) as caught:
        find_inputs(text, "out")
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_names_that_differ_by_case_only_keep_apart(inside):
    touch_all(inside, "both/a.mp4", "both/A.avi", "both/a.mp4.avi")
    assert len({each.name.casefold() for each in find_inputs("both", "out")}) == 3
