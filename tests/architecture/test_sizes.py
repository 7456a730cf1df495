"""Files and functions stay small enough to be read in one go, folders in one look; no name stands for two things."""

import ast
from collections import Counter

from tests.architecture.source import PACKAGE, sources

MAX_FILE_LINES = 400
USUAL_FILE_LINES = 250
USUAL_SHARE = 0.9
MAX_FOLDER_FILES = 14
MAX_FUNCTION_LINES = 60


def test_no_file_is_long() -> None:
    files = (*sources(PACKAGE), *sources("tests"), *sources("jobs"))
    assert {file.name: file.num_lines for file in files if file.num_lines > MAX_FILE_LINES} == {}


def test_most_files_are_short() -> None:
    files = sources(PACKAGE)
    longer = {file.name: file.num_lines for file in files if file.num_lines > USUAL_FILE_LINES}
    assert len(longer) <= (1 - USUAL_SHARE) * len(files), f"of {len(files)} files these are long: {longer}"


def test_no_function_is_long() -> None:
    assert {
        f"{file.name}:{function.lineno} {function.name}": length
        for file in (*sources(PACKAGE), *sources("jobs"))
        for function in file.functions()
        if (length := (function.end_lineno or 0) - function.lineno + 1) > MAX_FUNCTION_LINES
    } == {}


def test_no_class_name_stands_for_two_things() -> None:
    places: dict[str, list[str]] = {}
    for source in (*sources(PACKAGE), *sources("benchmarks"), *sources("examples")):
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name.lstrip("_"), []).append(source.name)
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_no_folder_is_crowded() -> None:
    folders = Counter(source.name.rpartition("/")[0] for source in sources(PACKAGE))
    assert {folder: count for folder, count in folders.items() if count > MAX_FOLDER_FILES} == {}
