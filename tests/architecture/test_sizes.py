"""Files and functions stay small enough to be read in one go."""

from tests.architecture.source import PACKAGE, sources

MAX_FILE_LINES = 400
USUAL_FILE_LINES = 200
USUAL_SHARE = 0.9
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
