"""Links of the repository's pages, as the site's pages need them: to a page, to a picture, or to the repository."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lesson_lib.build.repository import BRANCH, Repository
from lesson_lib.delivery import DeliveryError

PICTURES = (".png", ".svg", ".jpg", ".jpeg", ".gif", ".webp")
CODE = re.compile(
    r"^[ \t]*(?P<fence>`{3,}|~{3,})[^\n]*\n.*?^[ \t]*(?P=fence)[ \t]*$|(?P<tick>`+)(?!`).*?(?<!`)(?P=tick)(?!`)",
    re.MULTILINE | re.DOTALL,
)
TARGET = re.compile(r"(?<=\]\()([^()\s]+)(?=(?:\s+\"[^\"]*\")?\))")


class Links:
    """Rewrites links for one site, and remembers in `pictures` which files its pages show.

    pages: the site's pages, as path in the repository → path in the site's source. Both trees have one shape, so most
    links stay as they are.
    """

    def __init__(self, root: Path, pages: Mapping[str, str], repository: Repository) -> None:
        self.root, self.pages, self.repository = root, pages, repository
        self.pictures: set[str] = set()

    def rewrite(self, text: str, page: str) -> str:
        """Return a page's Markdown with its links led to the site or to the repository; code stays untouched.

        page: its path in the repository. Raises DeliveryError, naming page and link, where a link leads nowhere.
        """
        parts, end = [], 0
        for code in CODE.finditer(text):
            parts += [self._links(text[end : code.start()], page), code[0]]
            end = code.end()
        return "".join([*parts, self._links(text[end:], page)])

    def _links(self, text: str, page: str) -> str:
        return TARGET.sub(lambda found: self.target(found[1], page), text)

    def target(self, target: str, page: str) -> str:
        """Return where one link of a page leads on the site."""
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            return target
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(parts.path))) if parts.path else page
        anchor = f"#{heading(parts.fragment) if path.endswith('.ipynb') else parts.fragment}" if parts.fragment else ""
        if not parts.path:
            return anchor
        if path in self.pages:
            return posixpath.relpath(self.pages[path], posixpath.dirname(self.pages[page]) or ".") + anchor
        if path.startswith("..") or not (self.root / path).exists():
            raise DeliveryError(f"{page}: the link {target} leads nowhere; mend it or take it out")
        if path.lower().endswith(PICTURES):
            self.pictures.add(path)
            return target
        kind = "tree" if (self.root / path).is_dir() else "blob"
        return f"{self.repository.address}/{kind}/{BRANCH}/{path}{anchor}"


def heading(fragment: str) -> str:
    """Return the site's anchor for Jupyter's: `What-is-α?` there is `what-is-α` here, as on GitHub."""
    return re.sub(r"[^\w-]", "", unquote(fragment).lower())
