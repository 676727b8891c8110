"""Prompts from a config value: texts, lists and files."""

from pathlib import Path

import pytest

from triptych.errors import UserError
from tts_var.data.prompts import read_prompts


def test_a_text_is_one_prompt_and_a_list_several() -> None:
    assert read_prompts("  a red circle ") == ["a red circle"]
    assert read_prompts(["a red circle", " two squares "]) == ["a red circle", "two squares"]
    assert read_prompts((3, 5)) == ["3", "5"]
    assert read_prompts(3) == ["3"]


@pytest.mark.parametrize("name", ["some.txt", "some.prompts", "without_suffix"])
def test_a_file_has_one_prompt_per_line_without_comments_and_blank_lines(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("# comment\na red circle\n\n   \n  two squares  \n#a ring\n", encoding="utf-8")
    assert read_prompts(str(path)) == ["a red circle", "two squares"]


def test_a_byte_order_mark_is_not_part_of_the_first_prompt(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa red circle\r\ntwo squares".encode())
    assert read_prompts(path) == ["a red circle", "two squares"]


def test_a_prompt_longer_than_a_file_name_is_a_text() -> None:
    text = "a red circle " * 1000
    assert read_prompts(text) == [text.strip()]


@pytest.mark.parametrize("value", ["", "   ", [], ["", " "]])
def test_values_without_a_prompt_are_refused(value: object) -> None:
    with pytest.raises(UserError, match="contains no prompt: write one per line"):
        read_prompts(value)


def test_files_that_cannot_be_read_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent.txt cannot be read \(No such file or directory\)"):
        read_prompts(tmp_path / "absent.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UserError, match=r"folder.txt cannot be read \(Is a directory\)"):
        read_prompts(tmp_path / "folder.txt")
    (tmp_path / "latin.txt").write_bytes("ein gr\xfcner Kreis".encode("latin-1"))
    with pytest.raises(UserError, match="latin.txt is not UTF-8 text"):
        read_prompts(tmp_path / "latin.txt")
    (tmp_path / "empty.txt").write_text("# only a comment\n")
    with pytest.raises(UserError, match="empty.txt contains no prompt"):
        read_prompts(tmp_path / "empty.txt")
