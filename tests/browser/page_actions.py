"""What a user does with the live page in a browser."""

import json
import time

from tests.browser.chromium import SECONDS, Page


def visit(page: Page, address: str, *, width: int = 1280, scheme: str = "light", num_models: int = 6) -> None:
    """Open the page of a server with so many models."""
    page.problems.clear()
    page.requests.clear()
    page.show_as(width=width, scheme=scheme)
    page.visit(address)
    wait_for(page, f"document.querySelectorAll('#model option').length === {num_models}")


def wait_for(page: Page, condition: str) -> None:
    """Wait until a JavaScript expression is true."""
    limit = time.monotonic() + SECONDS
    while not page.evaluate(f"Boolean({condition})"):
        assert time.monotonic() < limit, f"{condition} never holds: {page.evaluate('document.body.innerText')}"
        time.sleep(0.02)


def write(page: Page, field: str, text: str) -> None:
    page.evaluate(
        f"(() => {{ const field = document.getElementById('{field}'); field.value = {json.dumps(text)}; "
        "field.dispatchEvent(new Event('change')); })()"
    )


def click(page: Page, button: str) -> None:
    page.evaluate(f"document.getElementById('{button}').click()")


def ask(page: Page, question: str, button: str = "ask") -> None:
    write(page, "question", question)
    click(page, button)


def text_of(page: Page, selector: str) -> str:
    return str(page.evaluate(f"document.querySelector({json.dumps(selector)}).textContent"))


def texts_of(page: Page, selector: str) -> list[str]:
    return list(page.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map((one) => one.textContent)"))


def is_done(page: Page) -> None:
    wait_for(page, "document.getElementById('stop').getAttribute('aria-disabled') === 'true'")


def press(page: Page, key: str, *, code: int, control: bool = False, text: str = "") -> None:
    """Press a key as a keyboard does, on what has the focus."""
    about = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 2 if control else 0}
    page.call(
        "Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **about, **({"text": text} if text else {})
    )
    page.call("Input.dispatchKeyEvent", type="keyUp", **about)
