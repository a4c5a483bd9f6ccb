"""Home servers of several domains, and starting many things at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from demo.home import Prosody


@dataclass
class HomeProsody(Prosody):
    """A home server of several domains, each with the same users.

    :ivar others: the domains besides the first.
    :ivar rooms: domains of chat rooms.
    """

    others: tuple[str, ...] = ()
    rooms: tuple[str, ...] = ()

    def start(self) -> HomeProsody:
        """Write the users of the further domains, too, and start."""
        self.extra = "".join(f'VirtualHost "{domain}"\n' for domain in self.others)
        for domain in self.others:
            folder = self.directory / "data" / domain.replace(".", "%2e") / "accounts"
            folder.mkdir(parents=True, exist_ok=True)
            for name, password in self.users.items():
                (folder / f"{name}.dat").write_text(f'return {{ ["password"] = "{password}"; }};\n')
        super().start()
        return self

    def _configuration(self) -> str:
        rooms = "".join(f'\nComponent "{domain}" "muc"\n' for domain in self.rooms)
        return super()._configuration() + rooms


def together(calls: Iterable[Callable[[], object]]) -> None:
    """Call in threads, wait for all; raises what one of them raises."""
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(call) for call in calls]:
            done.result()
