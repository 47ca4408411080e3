"""
Rules taken out of the gateway one at a time, each of which the simulator must miss.

    python -m tests.simulation.mutations                # all
    python -m tests.simulation.mutations NAME ...       # these

Each is a replacement in the source, made in a copy of the package in a temporary folder;
the simulator runs on it until it finds something. Exits with 1 where it finds nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]

SECONDS: Final = 300
"""How long one is looked for."""


class Replacement(NamedTuple):
    """
    A change of the source.

    @ivar file: below C{gateway/}.
    @ivar old: that must be there once.
    """

    file: str
    old: str
    new: str


class Mutation(NamedTuple):
    """
    A rule that is taken out.

    @ivar spread: whether it is one of several databases.
    """

    name: str
    text: str
    replacements: Sequence[Replacement]
    spread: bool = False


MUTATIONS: Final = (
    # The seven faults that were seen before these rules.
    Mutation(
        "fault-1",
        "HELLO without seen is answered from memory in an outage",
        [
            Replacement(
                "dialects/stream_registry.py",
                "            if seen is not None and not self._spread:\n"
                "                known = _known(before, waiting, seen.number)\n"
                "            if seen is None or known is None:",
                "            if not self._spread:\n"
                "                number = 0 if seen is None else seen.number\n"
                "                known = _known(before, waiting, number)\n"
                "            if known is None:",
            ),
            Replacement(
                "dialects/stream_registry.py",
                "if last < seen.number or seen.epoch not in",
                "if seen is not None and (last < seen.number or seen.epoch not in",
            ),
            Replacement("dialects/stream_registry.py", '("", epoch):', '("", epoch)):'),
        ],
    ),
    Mutation(
        "fault-2",
        "HELLO is answered +OK whatever seen says",
        [
            Replacement(
                "commit/memory_store.py",
                "elif end < seen.number or (seen.epoch and seen.epoch != epoch):",
                "elif False:",
            )
        ],
    ),
    Mutation(
        "fault-3",
        "what was queued moves the mark wherever that is behind",
        [
            Replacement(
                "commit/memory_store.py",
                "is_next = mark == move.first - 1\n",
                "is_next = mark == move.first - 1 or (claim is None and mark < move.first)\n",
            )
        ],
    ),
    Mutation(
        "fault-4",
        "what was queued begins a stream that the database has lost",
        [
            Replacement(
                "commit/memory_store.py",
                "if kept is None and claim is None and move.first == 1:",
                "if kept is None and claim is None:\n"
                "                stream_positions.pop(name, None)\n"
                "                continue\n"
                "            if False:",
            )
        ],
    ),
    Mutation(
        "fault-5",
        "a refusal of the gateway's own is told before it is durable",
        [
            Replacement(
                "model/batch.py",
                "if outcome.word is Word.REJ and (chunk.stream is not None or dead_letter):",
                "if outcome.word is Word.REJ and dead_letter:",
            )
        ],
    ),
    Mutation(
        "fault-6",
        "a refusal is remembered, although the database does not agree",
        [
            Replacement(
                "dialects/stream_registry.py",
                "            stream = _claimed(name, claim, waiting)\n",
                "            stream = _claimed(name, claim, waiting)\n"
                "            stream.refusals.update({} if before is None else before.refusals)\n",
            )
        ],
    ),
    Mutation(
        "fault-7",
        "lanes of statements that may be in flight are forgotten after the next start",
        [
            Replacement(
                "spool/outage_spool.py",
                "        used -= spool.inherited\n",
                "",
            )
        ],
    ),
    # Other rules of the design.
    Mutation(
        "no-epochs",
        "a stream has one epoch for ever",
        [
            Replacement(
                "commit/memory_store.py", '                epoch = ""\n', "                pass\n"
            ),
            Replacement("commit/memory_store.py", "(seen.epoch and seen.epoch != epoch)", "False"),
        ],
    ),
    Mutation(
        "pieces-without-fence",
        "a record is taken apart, or becomes a dead letter, and its fence is left to be used",
        [Replacement("spool/drain.py", "        if not void:\n", "        if False:\n")],
    ),
    Mutation(
        "known-by-number",
        "what is queued is dropped as known because its number is",
        [
            Replacement(
                "spool/drain.py",
                "if stream_position.has_message(number, piece.chunk.frames[row]):",
                "if True:",
            )
        ],
    ),
    Mutation(
        "seen-alone",
        "an outage's HELLO is answered whatever seen says",
        [Replacement("dialects/stream_registry.py", "if last < seen.number or", "if")],
    ),
    Mutation(
        "epoch-unseen",
        "an outage's HELLO is answered in whatever epoch",
        [Replacement("dialects/stream_registry.py", ' or seen.epoch not in ("", epoch):', ":")],
    ),
    Mutation(
        "void-forgotten",
        "what was read with a message that is not stored is stored behind it",
        [
            Replacement(
                "model/batch.py",
                "self._series = stream.series if valid else -1",
                "self._series = stream.series",
            )
        ],
    ),
    Mutation(
        "fences-shared",
        "a fence that went to the spool is used again",
        [
            Replacement(
                "commit/lane.py",
                "        if outcome is wording.STORING_FAILED or not sure:\n",
                "        if outcome is wording.STORING_FAILED:\n",
            )
        ],
    ),
    Mutation(
        "held-whole",
        "a stream that waits keeps what it waits for from being stored",
        [Replacement("spool/drain.py", "and move.first > held.missing", "and move.first > 0")],
    ),
    Mutation(
        "fences-shared-together",
        "a fence that went to the spool with others is used again",
        [
            Replacement(
                "commit/multi_route.py",
                "            # The fence is the spool's now.\n"
                "            self._fences.pop(batch.route, None)\n",
                "",
            )
        ],
    ),
    Mutation(
        "together-guessed",
        "of an open commit of several routes only the first one's refusals are looked up",
        [
            Replacement(
                "commit/multi_route.py",
                "                    await context.store.resolve(batch, fence)\n",
                "                    Written([(batch.count, STORED)], True)\n",
            )
        ],
    ),
    Mutation(
        "together-first-fence",
        "a late commit of several routes is stored though one of them was stored by itself",
        [Replacement("commit/memory_store.py", "if known:", "if before[0] is not None:")],
    ),
    Mutation(
        "unknown-guessed",
        "a batch whose fate is open is written again behind another fence",
        [
            Replacement(
                "commit/lane.py",
                "            if step is NextStep.RENUMBER:\n"
                "                fence = self._fences[route] = fence.next\n",
                "            if step is NextStep.RENUMBER or attempt.known is Known.UNKNOWN:\n"
                "                attempt.note_not_stored()\n"
                "                self._fences.pop(route, None)\n"
                "                fence = self._fences[route]\n",
            )
        ],
    ),
    Mutation(
        "void-written",
        "what comes behind a message that is not stored is stored",
        [Replacement("model/batch.py", "        if not self.void:\n", "        if True:\n")],
    ),
    Mutation(
        "taken-over-at-once",
        "a stream is opened while an earlier connection's messages are in flight",
        [
            Replacement(
                "dialects/stream_registry.py", "if stream is not None and stream.busy:", "if False:"
            )
        ],
    ),
    Mutation(
        "unresolved",
        "batches of a commit whose fate is open are written again one by one",
        [
            Replacement(
                "commit/multi_route.py",
                "                if first is None:\n                    break\n",
                "                break\n",
            )
        ],
    ),
    Mutation(
        "refused-lost",
        "a message that is refused in the spool is not kept as a dead letter",
        [
            Replacement(
                "spool/drain.py",
                "            await self._keep(parcel, faults)\n        else:\n"
                "            await self._remove(parcel)",
                "            pass\n        await self._remove(parcel)",
            )
        ],
    ),
    Mutation(
        "sent-on-one-by-one",
        "what is sent on to another lane is committed before all of it is there",
        [
            Replacement(
                "commit/writer.py",
                "        lane.add(chunks)\n        return lane",
                "        for chunk in chunks:\n            lane.queue(chunk)\n        return lane",
            )
        ],
    ),
    Mutation(
        "overtakes-a-pause",
        "what a peer sent behind a message of a paused route is committed before it",
        [
            Replacement(
                "commit/lane.py",
                "if origin in waiting or waits:",
                "if waits:",
            )
        ],
    ),
    # Units with keys.
    Mutation(
        "unit-twice",
        "units with the same key are committed together",
        [Replacement("commit/units.py", "place = seen.get(unit.key, -1) + 1", "place = 0")],
    ),
    Mutation(
        "unit-unkeyed",
        "a unit goes into the spool without the fence of its key",
        [
            Replacement(
                "commit/units.py",
                "fence if keyed or not sure else None",
                "fence if not sure else None",
            )
        ],
    ),
    Mutation(
        "unit-in-pieces",
        "a unit's record is taken apart as others are",
        [Replacement("spool/drain.py", "if is_unit_key(parcel.fence.lane):", "if 0:")],
    ),
    Mutation(
        "unit-joined",
        "two records of one unit are stored as one",
        [Replacement("spool/record.py", " and self.number > other.number", "")],
    ),
    Mutation(
        "unit-half",
        "of a unit in a queue only some messages wait for a paused route",
        [
            Replacement(
                "commit/lane.py",
                "id(chunk.part.unit) in paused",
                "False",
            )
        ],
    ),
    Mutation(
        "unit-halved",
        "a unit of several routes goes into the spool route by route",
        [
            Replacement(
                "commit/units.py",
                "all(len({chunk.route for chunk in unit}) == 1 for unit in self.units)",
                "True",
            )
        ],
    ),
    # Reads that are cut by routes.
    Mutation(
        "read-half-paused",
        "of a read that was cut by routes only messages of a paused route wait",
        [
            Replacement(
                "commit/lane.py",
                "waits = waits or chunk.place(0) >= ends[id(chunk.read)]",
                "pass",
            )
        ],
    ),
    Mutation(
        "read-by-route",
        "where the routes of a read are committed one by one, each has all its messages at once",
        [
            Replacement(
                "model/arrival.py",
                "if chunk.places is None or isinstance(chunk.places, range):",
                "if True:",
            )
        ],
    ),
    Mutation(
        "read-in-rows",
        "messages of a read that was cut by routes have the numbers of their rows",
        [
            Replacement(
                "model/batch.py",
                "return row if self.places is None else self.places[row]",
                "return row",
            )
        ],
    ),
    Mutation(
        "read-counted-by-chunks",
        "a stream is told of the chunks of a read, and not of all its numbers",
        [
            Replacement(
                "commit/writer.py",
                "stream.note_submitted(first, sum([len(group.frames) for group in groups]))",
                "stream.note_submitted(first, len(groups[0].frames))",
            )
        ],
    ),
    Mutation(
        "read-spooled-in-a-row",
        "a record of a read that was cut by routes has its numbers in a row",
        [
            Replacement(
                "spool/record.py",
                "        for part in piece.consecutive()\n",
                "        for part in (piece,)\n",
            )
        ],
    ),
    # What the simulator found while these rules were built.
    Mutation(
        "spool-unasked",
        "lanes are not told that something is on its way into the spool",
        [
            Replacement(
                "spool/outage_spool.py",
                "        self._taking += batch.count\n        self.may_lead = True\n",
                "        self._taking += batch.count\n",
            ),
            Replacement(
                "spool/outage_spool.py",
                "            self.may_lead = True  # a batch of refusals alone",
                "            # a batch of refusals alone",
            ),
        ],
    ),
    Mutation(
        "let-in-mid-pass",
        "a route that was left out is let in again in the middle of a pass of the spool",
        [Replacement("spool/outage_spool.py", "self._passed |= {", "self._passed = {")],
    ),
    Mutation(
        "rows-unsorted",
        "rows of a record are put aside in front of its refusals, whatever their numbers",
        [Replacement("spool/drain.py", "    rows.sort(key=itemgetter(0))\n", "")],
    ),
    Mutation(
        "spool-hole-told",
        "an outage's HELLO tells the last number in the spool, over a hole",
        [
            Replacement(
                "dialects/stream_registry.py",
                "return epoch, reached(seen, waiting.numbers.get(epoch, ()))",
                "return epoch, last",
            )
        ],
    ),
    Mutation(
        "disk-trusted",
        "HELLO is answered by a spool whose disk may have kept more",
        [Replacement("spool/backlog.py", " or stream in self._doubtful:", ":")],
    ),
    Mutation(
        "probe-forgotten",
        "a route that closes again while it is probed has no count of failures",
        [
            Replacement(
                "commit/circuit_breaker.py",
                "self._failures.pop(route, None)",
                "del self._failures[route]",
            )
        ],
    ),
    # Several databases.
    Mutation(
        "spread-loss-unseen",
        "what the others have noted of a database that was set back is not looked at",
        [Replacement("commit/placed_store.py", "positions[database].mark < mark", "False")],
        spread=True,
    ),
    Mutation(
        "spread-noted-alone",
        "a database notes its own mark alone",
        [
            Replacement(
                "commit/memory_store.py",
                "kept.marks = {**move.stream.marks, self._database: move.last}",
                "kept.marks = {self._database: move.last}",
            )
        ],
        spread=True,
    ),
    Mutation(
        "spread-mark-anywhere",
        "a number is stored wherever the mark of its database is behind",
        [
            Replacement(
                "commit/memory_store.py",
                "is_next = mark == marks.get(self._database, 0) and mark < move.first",
                "is_next = mark < move.first",
            )
        ],
        spread=True,
    ),
    Mutation(
        "spread-claim-at-home",
        "a stream is claimed at home alone",
        [
            Replacement(
                "commit/placed_store.py",
                "store.claim_spread(name, word, before[database], home.epoch),",
                "store.spread_position(name),",
            ),
            Replacement(
                "commit/memory_store.py",
                "claimed = claim is None or (kept is not None and claim == kept.claim)",
                "kept = kept or KeptStream(marks={})\n"
                "            claimed = (\n"
                "                claim is None\n"
                "                or claim == kept.claim\n"
                '                or self._database != "database"\n'
                "            )",
            ),
            Replacement(
                "commit/memory_store.py",
                'kept.epoch in ("", epoch)\n',
                'kept.epoch in ("", epoch) or claimed\n',
            ),
        ],
        spread=True,
    ),
    Mutation(
        "spread-epoch-at-home",
        "a new epoch begins at home alone",
        [
            Replacement(
                "commit/placed_store.py",
                "store.claim_spread(name, word, before[database], home.epoch)",
                "store.claim_spread(name, word, before[database], None)",
            )
        ],
        spread=True,
    ),
    Mutation(
        "spread-seen-before-claim",
        "how far a stream is is looked at before it is claimed, and not after",
        [
            Replacement(
                "commit/placed_store.py",
                "        _check_seen(claimed, seen)\n        refusals",
                "        refusals",
            )
        ],
        spread=True,
    ),
    Mutation(
        "spread-reached-alone",
        "a database that cannot be reached is not asked how far a stream is",
        [
            Replacement(
                "commit/placed_store.py",
                "        raise_first(results)\n        return results",
                "        both = results.items()\n"
                "        return {n: r for n, r in both if not isinstance(r, StoreError)}",
            ),
            Replacement(
                "commit/placed_store.py",
                "before = {database: position.claim for",
                'before = dict.fromkeys(self._stores, "") | {database: position.claim for',
            ),
            Replacement(
                "commit/placed_store.py",
                "        for database in self._stores:\n"
                "            self._check_reached(database)\n",
                "        self._check_reached(HOME)\n",
            ),
            Replacement(
                "commit/placed_store.py",
                "positions[HOME].epoch):",
                'getattr(positions.get(HOME), "epoch", seen.epoch)):',
            ),
            Replacement(
                "commit/placed_store.py",
                "reached = max(position.mark for position in positions.values())",
                "reached = max([position.mark for position in positions.values()] or [0])",
            ),
        ],
        spread=True,
    ),
    Mutation(
        "spread-out-of-turn",
        "a number is stored while one before it is on its way into another database",
        [
            Replacement(
                "commit/placed_writer.py",
                "if not waiting and self._turn in (None, database):",
                "if True:",
            )
        ],
        spread=True,
    ),
    Mutation(
        "spread-spooled",
        "a number is spooled, and those behind it are stored in another database",
        [
            Replacement(
                "commit/writer.py",
                "return None if numbered and self.is_spread else self.spooler",
                "return self.spooler",
            ),
            Replacement(
                "commit/lane.py",
                "if self._context.is_spread and spooler is not None and part.numbered:",
                "if False:",
            ),
        ],
        spread=True,
    ),
    Mutation(
        "spread-loss-for-ever",
        "what was lost in an earlier epoch is told in every one",
        [
            Replacement(
                "commit/memory_store.py",
                "if kept.marks is None or (epoch is not None and epoch != kept.epoch):",
                "if kept.marks is None:",
            )
        ],
        spread=True,
    ),
    Mutation(
        "spread-mixed",
        "records of several databases are stored in that of the first",
        [
            Replacement(
                "commit/placed_store.py",
                "return len({self._places.database_of(batch.route) for batch in batches}) > 1",
                "return False",
            )
        ],
        spread=True,
    ),
)


def main(names: Sequence[str]) -> int:
    known = {mutation.name: mutation for mutation in MUTATIONS}
    if unknown := set(names) - set(known):
        print(f"no mutation {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        return 2
    missed = 0
    for name in names or known:
        mutation = known[name]
        started = time.monotonic()
        found, count = run(mutation)
        taken = time.monotonic() - started
        missed += not found
        print(
            f"{name:22s} {count:7d} schedules {taken:6.1f} s  {found or 'NOT FOUND'}"
            f"\n{'':22s} ({mutation.text})",
            flush=True,
        )
    return int(missed > 0)


def run(mutation: Mutation) -> tuple[str, int]:
    """
    Run the simulator on a gateway without a rule.

    @return: what it finds, and in how many schedules.
    """
    with tempfile.TemporaryDirectory(prefix="gateway-mutation-") as folder:
        copy = Path(folder)
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "gateway", copy / "gateway", ignore=ignore)
        (copy / "tests").symlink_to(ROOT / "tests")
        for file, old, new in mutation.replacements:
            path = copy / "gateway" / file
            text = path.read_text()
            if text.count(old) != 1:
                raise SystemExit(f"{mutation.name}: {text.count(old)} times in {file}: {old}")
            path.write_text(text.replace(old, new))
        seeds = ["--first", "1", "--seconds", f"{SECONDS}", *["--spread"] * mutation.spread]
        done = subprocess.run(
            [sys.executable, "-m", "tests.simulation", *seeds],
            cwd=copy,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    counts = re.findall(r"^(\d+) schedules", done.stdout, re.MULTILINE)
    found = re.search(r"^seed \d+: (.*)", done.stdout, re.MULTILINE)
    if done.returncode == 0:
        return "", int(counts[-1])
    return found[1] if found else done.stdout[-500:], int(counts[-1]) if counts else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
