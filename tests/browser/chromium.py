"""A real Chromium without a window, driven through chromedriver."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from demo.parts import PartFailed

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
)

DESKTOP, PHONE, SMALL_PHONE = (1280, 900), (390, 844), (320, 640)


class Chromium:
    """One browser with a profile of its own.

    :param hosts: host names that are to be found on loopback.
    :param scripts: whether pages may run JavaScript.
    """

    def __init__(self, profile: Path, hosts: tuple[str, ...], scripts: bool = True) -> None:
        shutil.rmtree(profile, ignore_errors=True)
        options = webdriver.ChromeOptions()
        options.binary_location = _program("chromium")
        for flag in FLAGS:
            options.add_argument(flag)
        options.add_argument(f"--user-data-dir={profile}")
        rules = ", ".join(f"MAP {host} 127.0.0.1" for host in hosts)
        options.add_argument(f"--host-resolver-rules={rules}")
        options.accept_insecure_certs = True  # the tests' own authority
        if not scripts:
            setting = {"profile.managed_default_content_settings.javascript": 2}
            options.add_experimental_option("prefs", setting)
        log = profile.with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        service = webdriver.ChromeService(_program("chromedriver"), log_output=str(log))
        self.driver = webdriver.Chrome(options, service)
        self.driver.set_page_load_timeout(30)
        self.size(DESKTOP)

    def stop(self) -> None:
        """End it."""
        self.driver.quit()

    # -- looking -----------------------------------------------------------------------------------

    def open(self, address: str) -> None:
        """Open a page."""
        self.driver.get(address)

    def find(self, selector: str, within: WebElement | None = None) -> WebElement:
        """Return the first element."""
        return (within or self.driver).find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """Return all elements."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    @property
    def text(self) -> str:
        """What a reader sees."""
        return self.find("body").text

    def wait_for(self, text: str) -> None:
        """Wait until a text is to be read."""
        WebDriverWait(self.driver, 60).until(lambda _: text in self.text, f"{text!r} not seen")

    # -- doing -------------------------------------------------------------------------------------

    def press(self, name: str) -> None:
        """Press the button with these words or this label, and wait for the page that follows."""
        for button in self.all("button, a.button"):
            if name in (button.text, button.get_attribute("aria-label")):
                break
        else:
            raise AssertionError(f"no button {name!r} in {self.text}")
        page = self.find("html")
        self._scroll_to(button)
        button.click()
        WebDriverWait(self.driver, 60).until(lambda _: _gone(page), f"nothing came of {name!r}")

    def fill(self, form: str, **values: str) -> None:
        """Fill in the form with this action: texts, and the values of radio buttons."""
        for name, value in values.items():
            fields = self.all(f"form[action*='{form}'] input[name={name}]:not([type=hidden])")
            for field in fields:
                self._scroll_to(field)
                if field.get_attribute("type") in ("radio", "checkbox"):
                    if field.get_attribute("value") == value:
                        field.click()
                else:
                    field.clear()
                    field.send_keys(value)

    def tick(self, selector: str) -> None:
        """Click a box."""
        box = self.find(selector)
        self._scroll_to(box)
        box.click()

    def _scroll_to(self, element: WebElement) -> None:
        where = {"behavior": "instant", "block": "center"}
        self.driver.execute_script("arguments[0].scrollIntoView(arguments[1])", element, where)

    # -- the window --------------------------------------------------------------------------------

    def size(self, size: tuple[int, int]) -> None:
        """Give the page a width and height."""
        self._devtools(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=size[0] < 600,
        )

    def dark(self, dark: bool) -> None:
        """Let the reader like it dark, or light."""
        value = "dark" if dark else "light"
        feature = {"name": "prefers-color-scheme", "value": value}
        self._devtools("Emulation.setEmulatedMedia", features=[feature])

    @property
    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        root = "document.documentElement"
        width: int = self.driver.execute_script(f"return {root}.scrollWidth - {root}.clientWidth")
        return width

    def picture(self, path: Path) -> None:
        """Take a picture of the whole page."""
        path.parent.mkdir(parents=True, exist_ok=True)
        shot = self._devtools("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _devtools(self, command: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, parameters)


def _gone(element: WebElement) -> bool:
    from selenium.common.exceptions import StaleElementReferenceException, WebDriverException

    try:
        element.is_enabled()
    except StaleElementReferenceException:
        return True
    except WebDriverException as error:
        return "does not belong to the document" in str(error)
    return False


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise PartFailed(f"{name} is not installed: run scripts/install-packages")
    return found
