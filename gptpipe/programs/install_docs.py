"""The manual pages and completions, linked to where ``man`` and the shells look.

``pipx`` installs them; ``uv tool install`` leaves them in the tool's own folder, where nobody looks.
"""

from __future__ import annotations

from pathlib import Path

from gptpipe.errors import NoInput, WriteError
from gptpipe.storage import failing

# Where each kind is below the prefix of an installation, in a checkout, and by which names.
_KINDS = (
    ("share/man/man1", "man", "gptpipe*.1", "man/man1"),
    ("share/man/man5", "man", "gptpipe*.5", "man/man5"),
    ("share/man/man7", "man", "gptpipe*.7", "man/man7"),
    ("share/bash-completion/completions", "completions/bash", "gptpipe*", "bash-completion/completions"),
    ("share/fish/vendor_completions.d", "completions/fish", "gptpipe*.fish", "fish/vendor_completions.d"),
    ("share/zsh/site-functions", "completions/zsh", "_gptpipe", "zsh/site-functions"),
)


def links(data: Path) -> list[tuple[Path, Path]]:
    """Return the links to make, each with the file that it leads to, below the user's data folder, ``$XDG_DATA_HOME``.

    :raises NoInput: if this installation has no documents.
    """
    checkout = Path(__file__).parents[2]  # or PREFIX/lib/pythonX.Y/site-packages of an installation
    prefix = (checkout / "../../..").resolve()  # a checkout may be less than three folders deep
    found = []
    for installed, source, pattern, target in _KINDS:
        files = sorted((checkout / source).glob(pattern)) or sorted((prefix / installed).glob(pattern))
        found += [(data / target / file.name, file) for file in files]
    if not found:
        raise NoInput(f"no manual pages are below {prefix}")
    return found


def install(link: Path, file: Path) -> None:
    """Make a link, in place of an older one; a file that is not a link stays, as does the document where it belongs.

    :raises WriteError: if that fails.
    """
    with failing(WriteError, f"cannot write {link}"):
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.exists() and link.samefile(file):
            return
        if link.is_symlink():
            link.unlink()
        link.symlink_to(file)
