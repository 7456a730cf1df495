"""Figures of the source: how large it is, how it is divided, and how far a question travels through it.

    python benchmarks/source_figures.py            # of this checkout
    python benchmarks/source_figures.py --words    # and where the words stand that the glossary has others for

Standard library only, so that it also runs over an old checkout: `python source_figures.py --root OLD`.
"""

import argparse
import ast
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

PACKAGE = "latentmas_ray"
# Words of a private language; docs/glossary.md has the field's.
WORDS = ("nobody", "whoever", "beside", "goes on", "is told", "anew")
_RAY_ERROR = re.compile(r"\bray\b|\bRay\w*Error|ActorDiedError|GetTimeoutError")
# Prints how many functions and files of the package one question enters, from the command line to the journal.
TRACE = """
import json, sys
entered = {}
def profile(frame, event, argument):
    if event == "call":
        code = frame.f_code
        if "/latentmas_ray/" in code.co_filename and not code.co_name.startswith("<"):
            entered.setdefault((code.co_filename.rpartition("/latentmas_ray/")[2], code.co_qualname), None)
from latentmas_ray.cli.main import main
import threading
arguments = ["eval", "--runtime", "local", "--method", "latent", "--task", "chain", "--limit", "1",
             "--latent-steps", "1", "--max-new-tokens", "2", "--device", "cpu", "--output", sys.argv[1]]
threading.setprofile(profile)
sys.setprofile(profile)
code = main(arguments)
sys.setprofile(None)
print(json.dumps([code, len(entered), len({name for name, _ in entered})]))
"""


def parsed(root: Path) -> dict[str, tuple[str, ast.Module]]:
    """Text and tree of every module of the package, by path below it."""
    files = sorted((root / PACKAGE).rglob("*.py"))
    return {
        path.relative_to(root / PACKAGE).as_posix(): (text := path.read_text(encoding="utf-8"), ast.parse(text))
        for path in files
    }


def importers(modules: dict[str, tuple[str, ast.Module]]) -> dict[str, set[str]]:
    """For each module, the modules that import it or a name from it."""
    names = {f"{PACKAGE}.{name.removesuffix('.py').replace('/', '.')}": name for name in modules}
    found: dict[str, set[str]] = defaultdict(set)
    for name, (_, tree) in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for target in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                    if target in names:
                        found[names[target]].add(name)
    return found


def functions(tree: ast.Module) -> list[int]:
    """Lines of each function."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in ast.walk(tree) if isinstance(node, kinds)]


def ray_clauses(tree: ast.Module) -> int:
    """`except` clauses that name errors of Ray."""
    caught = [node.type for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.type is not None]
    return sum(bool(_RAY_ERROR.search(ast.unparse(error))) for error in caught)


def stops(root: Path, python: str) -> list[int] | None:
    """[functions, files] that one question enters; None where the run fails."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [python, "-c", TRACE, f"{folder}/out"], cwd=root, capture_output=True, text=True, check=False
        )
    if done.returncode:
        return None
    code, *figures = json.loads(done.stdout.splitlines()[-1])
    return figures if code == 0 else None


def main() -> None:
    """Print the figures, a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="checkout to look at")
    parser.add_argument("--words", action="store_true", help="print every place of the listed words")
    parser.add_argument("--python", default=sys.executable, help="interpreter that can run the checkout")
    options = parser.parse_args()
    modules = parsed(options.root)
    folders = Counter(str(Path(name).parent) for name in modules)
    used = importers(modules)
    class_names = Counter(
        node.name for _, tree in modules.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    )
    lengths = {name: text.count("\n") for name, (text, _) in modules.items()}
    longest = max(lengths, key=lengths.__getitem__)
    print(f"files                            {len(modules)}")
    print(f"lines                            {sum(lengths.values())}")
    print(f"largest folders                  {', '.join(f'{n} {c}' for n, c in folders.most_common(4))}")
    alone = [name for name in modules if len(used[name]) == 1 and not name.endswith("__init__.py")]
    print(f"files with one importer          {len(alone)}")
    print(f"files of at most 45 lines        {sum(count <= 45 for count in lengths.values())}")
    print(
        f"longest function                 {max(max(functions(tree), default=0) for _, tree in modules.values())} lines"
    )
    print(f"longest file                     {lengths[longest]} lines ({longest})")
    print(f"class names used more than once  {sum(count > 1 for count in class_names.values())}")
    print(f"except clauses that name Ray's   {sum(ray_clauses(tree) for _, tree in modules.values())}")
    for word in WORDS:
        pattern = re.compile(rf"\b{word}\b", re.IGNORECASE)
        places = [
            f"{n}:{i}"
            for n, (text, _) in modules.items()
            for i, line in enumerate(text.split("\n"), 1)
            if pattern.search(line)
        ]
        print(f"lines with {word!r:21} {len(places)}" + (f"  {' '.join(places)}" if options.words else ""))
    entered = stops(options.root, options.python)
    print(
        "a question enters                "
        + (f"{entered[0]} functions in {entered[1]} files" if entered else "unknown: the run failed")
    )


if __name__ == "__main__":
    main()
