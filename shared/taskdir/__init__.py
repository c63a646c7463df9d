"""The folder of a task on the shared volume: safe names, atomic publication, leases, fences.

::

    tasks/<id>/.unowned                              only while the task is being made or deleted
    tasks/<id>/.inputs/                              what the user uploaded, but image.fits
    tasks/<id>/.results/<seq>-<rank>-<step>/         commits, each whole, with a manifest
    tasks/<id>/.work/<run>/<step>-<attempt>/<owner>/ an attempt at work
    tasks/<id>/.work/<run>                           a file instead: the run is closed
    tasks/<id>/*                                     flat view, hard links, derived
    tasks/.trash/<unique>                            set aside, swept later
    tasks/.incoming/<unique>                         uploads that are not whole yet

A commit is one `rename(2)` of an attempt's folder into `.results`. It hides, in the same instant, every earlier commit
of its own and of higher rank (`visible`), which are swept afterwards. The sequence number belongs to the step of the
run and not to the attempt: of two attempts only one finds the name free. A fence is a rename as well: it takes the
attempt's folder away, so that a worker that was frozen has nothing left to commit. Closing a run fences all of its
attempts and puts a file in the place of their folder, so that none can be made again, however late its message comes.
"""

from .attempt import Attempt, AttemptKey, Fenced, claim, fence, look
from .commits import Commit, Manifest, visible
from .copies import copy_file, copy_task, copy_tree
from .data import open_data
from .folder import NotFound, TaskDir, TasksRoot
from .layers import Entry
from .names import BadName, open_directory, open_root, safe_parts
from .sizes import files_of

__all__ = [
    "Attempt",
    "AttemptKey",
    "BadName",
    "Commit",
    "Entry",
    "Fenced",
    "Manifest",
    "NotFound",
    "TaskDir",
    "TasksRoot",
    "claim",
    "copy_file",
    "copy_task",
    "copy_tree",
    "fence",
    "files_of",
    "look",
    "open_data",
    "open_directory",
    "open_root",
    "safe_parts",
    "visible",
]
