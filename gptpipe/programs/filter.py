"""``gptpipe``: one question, one answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from gptpipe.programs import options
from gptpipe.programs.cli import Command, option


@click.command("gptpipe", cls=Command, options_metavar="[OPTION]...")
@click.argument("words", nargs=-1, metavar="[PROMPT]...")
@option("-f", "--file", group="message", metavar="PATH", multiple=True, help="add a file; - is standard input")
@option("-n", "--no-stdin", group="message", is_flag=True, help="do not read standard input")
@options.instructions
@option("-e", "--edit", group="message", is_flag=True, help="write the prompt in the editor")
@option("--encoding", group="message", metavar="NAME", default="utf-8", help="of text input (default UTF-8)")
@options.conversation
@option("--no-save", group="conversation", is_flag=True, help="read the conversation, append nothing")
@options.model
@option(
    "-o",
    "--output",
    group="answer",
    metavar="PATH",
    help="write the answer to PATH, which changes only when the answer is complete",
)
@option("--no-stream", group="answer", is_flag=True, help="print nothing until the answer is complete")
@option("-x", "--extract", "extract", group="answer", flag_value="first", help="print only the first code block")
@option("--extract-last", "extract", group="answer", flag_value="last", help="print only the last code block")
@options.schema
@option("--json", group="answer", is_flag=True, help="print one JSON object: the answer and its metadata")
@option("--meta", group="answer", metavar="PATH", help="write that object to PATH, also after a failure")
@option("--reasoning", group="answer", is_flag=True, help="show the model's reasoning on standard error")
@options.tools
@options.run
@option("--save-role", group="other", metavar="NAME", help="write the settings of this call as a role; ask nothing")
@option("--dry-run", group="other", is_flag=True, help="print the request as JSON; send, save and lock nothing")
@options.verbose
def command(words: Sequence[str], **values: Any) -> int:
    """Ask a language model: PROMPT, files and standard input in, the answer out.

    'gptpipe -m echo hello' needs no key and no network. The manual is gptpipe(1).
    """
    from gptpipe.programs import oneshot

    return oneshot.ask(words, values)
