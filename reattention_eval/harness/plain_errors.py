"""In `opencompass`'s own process an error of ours is one sentence, not the traceback of a program.

Configurations run inside it, so what they raise would otherwise be shown line by line.
"""

from __future__ import annotations

import errno
import sys
from types import TracebackType

from reattention_eval.errors import ReAttentionError

_MAIN = "opencompass.cli.main"
_REFUSED = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG), "written"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "read or written"),
}
STATUS = 1  # that of any uncaught error


def say_plainly() -> None:
    """From now on, if this process is `opencompass`; any other keeps its own way."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = (sys.argv[0] if sys.argv else "").replace("\\", "/").rpartition("/")[2]
    if getattr(spec, "name", None) == _MAIN or name in ("opencompass", "opencompass.exe"):
        sys.excepthook = _say


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, ReAttentionError):
        print(f"error: {error}", file=sys.stderr)
    elif isinstance(error, OSError) and error.errno in _REFUSED:
        # where OpenCompass itself makes folders and writes configurations, logs and summaries
        print(
            f"error: {error.filename or 'a file of the run'} cannot be {_REFUSED[error.errno]} "
            f"({error.strerror}); check the folder's permissions and the room on its disk, and "
            "start this run again, with -r if it had begun.",
            file=sys.stderr,
        )
    else:
        sys.__excepthook__(kind, error, trace)
