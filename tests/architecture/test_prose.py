"""Prose is the plain English of the field: phrases that a reader would stumble over, and what to write instead."""

import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from projects import ROOT

# Phrases rather than words: many of these verbs are right elsewhere. The right side is the replacement.
PHRASES = {
    r"(goes|go|going|gone) on (from|with|exactly|to the same|there)": "resumes, resuming from",
    r"(goes|go) on and ends": "resumes and ends",
    r"the same command goes on": "rerun the same command to resume",
    r"\bbefalls?\b": "happens to",
    r"\b(is|are|be|been|was|were) told\b": "is reported, is given",
    r"\bnot told\b|\btold (that|which|what|of|in|with|by|to)\b": "reported",
    r"\btells (which|what|how|the|that|it|of|who|when|where|a|nothing|whether|them|apart)\b": "reports, logs, shows",
    r"\bto tell (which|what|how|the|that|it|of|who|when|where)\b": "to report",
    r"\bspeaks?\b": "reports, logs",
    r"\bsays? (so|nothing|what|which|who|how|that|where|when|whether)\b": "states, gives, has no entry for",
    r"\bsaid (elsewhere|of|by)\b": "set elsewhere",
    r"\bknows? (nothing|who|what|how|which|where|when|whether|of|its|few|noise|unfinished)\b": "has no access to, depends on",
    r"\bnobody\b|\bsomebody\b|\bwhoever\b|\banybody\b": "no caller, the user, the code that",
    r"\b(at|of|by|with|in|to|into|on|most|least|as|than|up to) so many\b|\bso many (tokens|steps|pictures|prompts|particles|frames|shots|pieces|places)\b": "that number of, `count`",
    r"\bat as many tokens\b": "token-matched",
    r"\bhonest\b": "token-matched, fair",
    r"\brivals?\b": "baseline",
    r"\bjudges?\b|\bjudged\b": "verifier, scorer, scored",
    r"\bcheckers?\b": "verifier",
    r"\bceilings?\b": "upper bound, oracle",
    r"\bpictures?\b(?!/)": "image",
    r"\bshares? (of|to|at|that|per)\b|\bin its share\b": "fraction of; shard of a rank",
    r"\b(the|a|its|one|no|another|with|and|or) mend\b|\bmend(s|ed|ing)? (it|what|the|by)\b": "remedy, fix",
    r"\b(it|they|this|training|run|earlier|evaluation|memories|strategies|policies|summary|what .{1,40}) (came|comes|come) to\b(?! an end)": "result of",
    r"\bwhat pays\b|\bwhat .{1,30} (is|are) worth\b": "ablation of, evaluation of",
    r"\bwho (returns|comes back|returned)\b": "the reappearing character",
    r"\bteach(es)? nothing\b": "zero-advantage",
    r"\bfrom nothing\b": "from scratch",
    r"\bthe price\b|\bat what (cost|price)\b": "cost",
    r"\bone door\b|\bthe door\b|\bits door\b": "entry point",
    r"\bstrangers?\b": "unknown",
    r"\bas they stand\b|\bas it stands\b": "unchanged, in its present state",
    r"\bgone astray\b|\bgoes astray\b": "not finite",
    r"\bleft alone\b|\bleaves? alone\b": "skipped, unchanged",
    r"\bgives? back\b|\bgiven back\b": "releases, restores",
    r"\bwhat else\b|\bwhatever else\b|\banything else\b": "other",
    r"\bof (ours|its own making)\b": "own",
    r"\ba person\b|\bpeople\b": "the user",
    r"\bthe same one by one\b|\bone after another\b": "consecutive",
    r"\bside by side\b": "in one batch",
    r"\bmakes? no sense\b|\bwithout meaning\b": "is invalid",
    r"\bin words for\b|\bin the words of\b": "for",
    r"\bcalls? off\b|\bcalled off\b": "pauses",
    r"\basks? (for|of|it|to|nothing|whether|the)\b": "requests, requires",
    r"\bwants?\b": "needs",
    r"\b(law|laws) of\b(?! (the architecture|architecture))": "property of",
    r"\bdeals? (looks|a)\b|\bis dealt\b|\bdealt anew\b": "assigns",
    r"\banew\b": "again",
    r"\bheld against\b": "compared with",
    r"\blies? (between|within|with|level|outside|above|below)\b(?! \d| 0| and)": "is between",
    r"\bhere and there\b|\bby hand and\b": "",
    r"\bwe learnt\b": "findings",
}
# The list itself, and the history with its former names.
EXCEPT = {"tests/architecture/test_prose.py", "docs/CHANGELOG.md"}
SUFFIXES = {".py", ".yaml", ".md", ".html", ".mk", ".toml"}


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Comments, and strings with a space in them, of a Python file; comments of a YAML file; every line of other files."""
    text = path.read_text()
    if path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and " " in token.string):
                yield token.start[0], token.string
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if path.suffix not in (".yaml", ".toml") or "#" in line:
            yield number, line.partition("#")[2] if path.suffix in (".yaml", ".toml") else line


def test_files_are_in_the_plain_english_of_the_field() -> None:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = []
    for name in listed.splitlines():
        path = ROOT / name
        if not path.is_file() or name in EXCEPT or (path.suffix not in SUFFIXES and path.name != "Makefile"):
            continue
        for number, text in prose(path):
            for phrase, instead in PHRASES.items():
                for match in re.finditer(phrase, text, re.IGNORECASE):
                    line = number + text[: match.start()].count("\n")
                    found.append(f"{name}:{line}: '{match.group()}' (write: {instead})")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "hits"),
    [
        ("The same command goes on from the last checkpoint.", 2),
        ("whoever reads this is told what it came to", 4),
        ("Resumes from the last checkpoint; the fraction of images is logged.", 0),
        ("outputs/<name>/pictures/ holds the images", 0),
    ],
)
def test_the_list_finds_phrases_and_spares_plain_sentences(text: str, hits: int) -> None:
    assert sum(bool(re.search(phrase, text, re.IGNORECASE)) for phrase in PHRASES) == hits
