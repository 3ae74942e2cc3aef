#!/usr/bin/env python3
"""Is the simulator of the core any good? Plants known bugs, one at a time, and asks it to find each.

    scripts/planted-bugs/planted.py                 all of scripts/planted-bugs/*.patch
    scripts/planted 07 12           those whose name begins so
    scripts/planted --jobs 2        two at a time (default: the number of processors, at most 2)
    scripts/planted --draw 16 7     draw 16 bugs with seed 7 from what cargo-mutants makes of the core, write patches

Each patch is applied to a copy of router/core under target/planted and the simulator runs there with few seeds
(SIM_SEEDS, default 8; SIM_STEPS, default 6000) until the first failure. A patch begins with header lines:

    # bug: what is wrong, in a sentence
    # source: by hand | cargo-mutants VERSION, draw seed N
    # explained: why the simulator need not find it (equivalent, or out of its reach); only where it does not

Exit status: 0 if every bug was found or is explained, 1 if not, 2 if a patch does not apply or does not build.
"""
import argparse
import difflib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parent.parent.parent
BUGS = ROOT / "scripts" / "planted-bugs"
WORK = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "planted"
# Where messages live; what only checks or prints is left out of the draw.
DRAWN_FROM = ["admit", "bounds", "breaker", "call", "dedup", "deliver", "dispatch", "operate", "places", "queue",
              "session", "settle", "shard", "turn"]
# How operators are written in the names of files.
SIGNS = {"&&": "and", "||": "or", "==": "eq", "!=": "ne", "<=": "le", ">=": "ge", "<": "lt", ">": "gt", "+=": "add",
         "-=": "sub", "*=": "mul", "/=": "div", "+": "plus", "-": "minus", "*": "times", "/": "over", "%": "mod",
         "&": "bitand", "|": "bitor", "^": "bitxor", "<<": "shl", ">>": "shr", "->": "returning"}
# A bug may make the simulator run for ever; that counts as found, but costs this long.
SECONDS_MAX = 120


def header(patch: Path) -> dict:
    """The `# name: value` lines before the first hunk."""
    lines = {}
    for line in patch.read_text().splitlines():
        match = re.match(r"# (\w+): (.*)", line)
        if match:
            lines[match[1]] = match[2]
        elif line.startswith(("---", "diff ")):
            break
    return lines


def draw(count: int, seed: int) -> int:
    """Writes patches for mutants that a seeded draw takes from cargo-mutants' list, whatever becomes of them."""
    files = [argument for name in DRAWN_FROM for argument in ("--file", f"router/core/src/{name}.rs")]
    listed = subprocess.run(["cargo", "mutants", "--list", "--json", "--package", "clawgate-core", *files],
                            cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout
    version = subprocess.run(["cargo", "mutants", "--version"], check=True, text=True, stdout=subprocess.PIPE).stdout
    mutants = sorted(json.loads(listed), key=lambda mutant: mutant["name"])
    mutants = [mutant for mutant in mutants
               if not re.search(r"\b(check|fmt)$", (mutant.get("function") or {}).get("function_name", ""))]
    BUGS.mkdir(parents=True, exist_ok=True)
    first = 1 + max([int(patch.name[:2]) for patch in BUGS.glob("[0-9][0-9]-*.patch")], default=0)
    for number, mutant in enumerate(random.Random(seed).sample(mutants, count), first):
        path, span = mutant["file"], mutant["span"]
        before = (ROOT / path).read_text().splitlines(keepends=True)
        text = "".join(before)
        at = [sum(map(len, before[:span[end]["line"] - 1])) + span[end]["column"] - 1 for end in ("start", "end")]
        after = (text[:at[0]] + mutant["replacement"] + text[at[1]:]).splitlines(keepends=True)
        what = mutant["name"].split(": ", 1)[1]
        words = what.lower().replace("shard::", "").replace("replace ", " ")
        for sign, word in SIGNS.items():
            words = words.replace(f" {sign} ", f" {word} ")
        name = re.sub(r"[^a-z0-9]+", "-", words).strip("-")[:48].strip("-")
        lines = [f"# bug: {what}\n", f"# source: {version.strip()}, draw seed {seed}\n",
                 *difflib.unified_diff(before, after, f"a/{path}", f"b/{path}")]
        (BUGS / f"{number:02}-{name}.patch").write_text("".join(lines))
        print(f"{number:02} {what}")
    return 0


def copy_tree(tree: Path) -> None:
    """A workspace with nothing but the core. Files keep their times, so that only what changes is built again."""
    core = tree / "router" / "core"
    if core.exists():
        shutil.rmtree(core)
    shutil.copytree(ROOT / "router" / "core", core)
    manifest = (ROOT / "Cargo.toml").read_text()
    manifest, members = re.subn(r"(?m)^members = .*$", 'members = ["router/core"]', manifest)
    manifest = re.sub(r"(?m)^default-members = .*\n", "", manifest)
    manifest = re.sub(r'(?m)^clawgate-(?!core\b)\w+ = .*\n', "", manifest)
    if members != 1:
        raise SystemExit("Cargo.toml has no line `members = [...]` to narrow")
    (tree / "Cargo.toml").write_text(manifest)
    shutil.copy2(ROOT / "Cargo.lock", tree / "Cargo.lock")


def cargo(tree: Path, *arguments: str, timeout: float) -> subprocess.CompletedProcess:
    environment = dict(os.environ, CARGO_TARGET_DIR=str(tree / "target"))
    environment.setdefault("SIM_SEEDS", "8")
    environment.setdefault("SIM_STEPS", "6000")
    environment.pop("SIM_SEED", None)
    return subprocess.run(
        ["cargo", "test", "--quiet", "-p", "clawgate-core", "--test", "sim", *arguments],
        cwd=tree, env=environment, timeout=timeout, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )


def reason(output: str) -> str:
    """The first line of the simulator's verdict."""
    verdicts = [line for line in output.splitlines() if "SIM_SEED=" in line or "panicked at" in line]
    chosen = next((line for line in verdicts if "SIM_SEED=" in line), verdicts[0] if verdicts else "?")
    return chosen.strip()[:150]


def plant(tree: Path, patch: Path) -> tuple[str, str]:
    """Plants one bug and says what became of it: found, missed, stale or broken, and why."""
    copy_tree(tree)
    text = "".join(line for line in patch.read_text().splitlines(True) if not line.startswith("# "))
    applied = subprocess.run(
        ["patch", "--strip=1", "--forward", "--fuzz=2", "--no-backup-if-mismatch", "--reject-file=-"],
        cwd=tree, input=text, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    if applied.returncode != 0:
        return "stale", "the patch no longer applies, make it anew: " + applied.stdout.strip().replace("\n", "; ")
    for file in re.findall(r"(?m)^\+\+\+ b/(\S+)", text):
        os.utime(tree / file)
    try:
        built = cargo(tree, "--no-run", timeout=600)
        if built.returncode != 0:
            return "broken", "the patch does not build: " + built.stdout.strip()[-400:]
        ran = cargo(tree, "--", "seeds", timeout=SECONDS_MAX)
    except subprocess.TimeoutExpired:
        return "found", f"it does not come to an end within {SECONDS_MAX} s"
    return ("missed", "") if ran.returncode == 0 else ("found", reason(ran.stdout))


def main() -> int:
    parser = argparse.ArgumentParser(description="Plants known bugs and asks the simulator to find each.")
    parser.add_argument("names", nargs="*", help="only patches whose name begins with one of these")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--draw", nargs=2, type=int, metavar=("COUNT", "SEED"))
    options = parser.parse_args()
    if options.draw:
        return draw(*options.draw)
    patches = sorted(BUGS.glob("*.patch"))
    if options.names:
        patches = [patch for patch in patches if patch.name.startswith(tuple(options.names))]
    if not patches:
        print("no such patch", file=sys.stderr)
        return 2

    trees: Queue = Queue()
    for job in range(options.jobs):
        tree = WORK / str(job)
        tree.mkdir(parents=True, exist_ok=True)
        trees.put(tree)
    begin = time.monotonic()
    tree = trees.get()
    copy_tree(tree)
    sound = cargo(tree, "--", "seeds", timeout=900)
    trees.put(tree)
    if sound.returncode != 0:
        print("the simulator fails without any planted bug: " + reason(sound.stdout), file=sys.stderr)
        return 2

    def work(patch: Path) -> tuple[Path, str, str, float]:
        tree = trees.get()
        start = time.monotonic()
        try:
            outcome, why = plant(tree, patch)
        finally:
            trees.put(tree)
        return patch, outcome, why, time.monotonic() - start

    status, found, explained = 0, 0, 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for patch, outcome, why, seconds in pool.map(work, patches):
            excuse = header(patch).get("explained")
            if outcome == "found":
                found += 1
                if excuse:
                    why += "  (take its `explained` line away)"
            elif outcome == "missed" and excuse:
                outcome, why, explained = "explained", excuse, explained + 1
            else:
                status = max(status, 1 if outcome == "missed" else 2)
                why = why or header(patch).get("bug", "")
            print(f"{outcome:9} {seconds:5.1f} s  {patch.stem:40} {why}", flush=True)
    print(f"{found} found, {explained} explained, of {len(patches)}, in {time.monotonic() - begin:.0f} s")
    return status


if __name__ == "__main__":
    sys.exit(main())
