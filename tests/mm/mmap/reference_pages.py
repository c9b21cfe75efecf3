"""An address space as a table of pages: what each page is, one by one. Written apart from the model."""

from __future__ import annotations

from dataclasses import dataclass, replace

PAGE = 4096


@dataclass(frozen=True)
class Page:
    """What is so of one mapped page."""

    prot: int
    shared: bool
    #: Which file, or "" of anonymous memory, and its page there.
    file: str
    number: int
    locked: bool = False
    reserve: bool = True
    #: Memory is promised for it.
    promised: bool = False
    policy: str = ""
    sequential: bool = False
    no_huge: bool = False


class Pages:
    """All pages, and what calls do to them. Calls return the error's name, or an address, or ""."""

    def __init__(self, base: int, *, uncharges: bool) -> None:
        self.pages: dict[int, Page] = {}
        self.base = base // PAGE
        #: mprotect to read-only gives promised memory back.
        self.uncharges = uncharges

    def free(self, first: int, count: int) -> bool:
        return not any(page in self.pages for page in range(first, first + count))

    def highest(self, count: int) -> int:
        """The highest free place below the base, tried page by page."""
        first = self.base - count
        while not self.free(first, count):
            first -= 1
        return first

    def map(self, first: int, count: int, page: Page) -> None:
        for nth in range(count):
            number = page.number + nth if page.file else first + nth
            self.pages[first + nth] = replace(page, number=number)

    def unmap(self, first: int, count: int) -> None:
        for at in range(first, first + count):
            self.pages.pop(at, None)

    def protect(self, first: int, count: int, prot: int) -> str:
        for at in range(first, first + count):
            if at not in self.pages:
                return "ENOMEM"
            page = self.pages[at]
            promised = page.promised
            if prot & 2 and not page.prot & 2 and not page.shared and page.reserve:
                promised = True
            if self.uncharges and not prot & 2 and not page.file and prot != page.prot:
                promised = False
            self.pages[at] = replace(page, prot=prot, promised=promised)
        return ""

    def change(self, first: int, count: int, *, stop: bool, **what: object) -> str:
        """Change what is mapped; holes are ENOMEM, at once if `stop`."""
        result = ""
        for at in range(first, first + count):
            if at in self.pages:
                self.pages[at] = replace(self.pages[at], **what)  # type: ignore[arg-type]  # a test's words
            else:
                result = "ENOMEM"
                if stop:
                    break
        return result

    def alike(self, low: int, high: int) -> bool:
        """Whether two neighbouring pages may be of one VMA."""
        one, other = self.pages[low], self.pages[high]
        return other == replace(one, number=one.number + 1)

    def areas(self) -> list[tuple[int, int]]:
        """Runs of pages that may be one VMA."""
        found: list[tuple[int, int]] = []
        for at in sorted(self.pages):
            if found and found[-1][1] == at and self.alike(at - 1, at):
                found[-1] = (found[-1][0], at + 1)
            else:
                found.append((at, at + 1))
        return found
