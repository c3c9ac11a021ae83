"""Documents of any length -> summaries that say where they come from.

What it is: `summarize(engine, document, Task(...))`, a generator of events; `Jobs`, which let one go on after a crash;
`Meter` and `counters`, which say how far it is and what it cost. No printing, no UI.
What it does not know: file formats (lacache_app.documents) and how the memory is bounded (the engine).

    for event in summarize(engine, read_document("book.epub"), Task(mode="parts", style="bullets")):
        ...                                  # Stage, Progress while reading, a Step per token, Place, last a Result
"""

from lacache_app.summarize.costs import Ledger, counters
from lacache_app.summarize.events import Note, Place, Result, Stage
from lacache_app.summarize.jobs import Job, Jobs
from lacache_app.summarize.meter import Meter
from lacache_app.summarize.task import INSTRUCTION, LENGTHS, MODES, SAMPLING, STYLES, Task, message
from lacache_app.summarize.work import engine_identity, part_sizes, resume, summarize

__all__ = [
    "INSTRUCTION",
    "LENGTHS",
    "MODES",
    "SAMPLING",
    "STYLES",
    "Job",
    "Jobs",
    "Ledger",
    "Meter",
    "Note",
    "Place",
    "Result",
    "Stage",
    "Task",
    "counters",
    "engine_identity",
    "message",
    "part_sizes",
    "resume",
    "summarize",
]
