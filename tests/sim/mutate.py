"""Breaks the core on purpose, one rule at a time, and shows that a transcript or a seed notices.

    python -m sim.mutate [--markdown] [NAME...]        with tests/ and the repository's root on the path

Each mutation is a replacement in one file of consensus/raft, made in a copy. It must be caught by the transcript named
beside it; what a number of seeds find by themselves is told, too. `docs/raft-mutations.md` is this script's output.
"""
# ruff: noqa: E501
from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 150


@dataclass(frozen=True)
class Mutation:
    rule: str
    what: str
    file: str
    old: str
    new: str
    scenario: str = ""


MUTATIONS = [
    Mutation("R1", "a majority is half of the voters", "quorum.py", "voter_count // 2 + 1", "max(1, voter_count // 2)",
             "isolated_candidates"),
    Mutation("R2", "a lower term of a request is taken", "following.py", "    if request.term < s.term:\n        s.reply",
             "    if request.term < 0:\n        s.reply", "old_leader_speaks"),
    Mutation("R3", "the vote is not persisted when given in the current term", "voting.py",
             "            s.effects.append(PersistVote(s.term, vote))\n", "", "vote_in_a_known_term"),
    Mutation("R3", "the term is persisted without the vote", "state.py",
             "PersistVote(term, voted_for)", "PersistVote(term, None)", "vote_survives_kill"),
    Mutation("R3", "the vote is told before it is persisted", "voting.py",
             "    _answer(s, request, VoteDenial.LAST_OPID_TOO_OLD if behind else None)\n",
             "    _answer(s, request, VoteDenial.LAST_OPID_TOO_OLD if behind else None)\n"
             "    s.effects.insert(0, s.effects.pop())\n", "election"),
    Mutation("R3", "two votes in one term", "voting.py", "request.term == s.term and s.voted_for is not None",
             "request.term == s.term and s.voted_for == request.candidate_id", "one_vote_a_term"),
    Mutation("R4", "a leader of the same term is believed by a leader", "following.py",
             "if request.term == s.term and s.leader_id is not None and s.leader_id != request.leader_id:",
             "if request.term < 0:", "impossible_messages"),
    Mutation("R4", "a leader that lost what it had sent leads on", "following.py",
             "    if s.leadership is not None:\n        s.become_follower()\n    kept", "    if s.leadership is not None:\n        return\n    kept", "disk_is_full"),
    Mutation("R5", "the preceding operation is not compared", "following.py",
             "if here != preceding.term and preceding.index >= s.terms.base.index:",
             "if here < 0 and preceding.index >= s.terms.base.index:", "divergent_preceding"),
    Mutation("R5", "no truncation of what differs", "following.py",
             "        if differs <= last:\n            s.truncate_after(differs - 1)\n            last = differs - 1\n",
             "        if differs <= last:\n            continue\n", "divergent_log_goes_back"),
    Mutation("R5", "operations that are there already are taken again", "following.py",
             "        if run.first <= last:\n", "        if run.first <= last and run.term != s.term:\n", "duplicates_by_index"),
    Mutation("R6", "votes without a look at the log", "voting.py", "behind = request.last_received < s.last_received",
             "behind = False", "tombstoned_voter"),
    Mutation("R6", "logs are compared by index alone", "voting.py", "behind = request.last_received < s.last_received",
             "behind = request.last_received.index < s.last_received.index", "longer_log_of_older_term"),
    Mutation("R7", "the leader's commit index is believed beyond where the logs agree", "following.py",
             "min(s.leader_commit, s.matched_index, s.durability.index)", "min(s.leader_commit, s.durability.index)",
             "commit_stops_where_logs_agree"),
    Mutation("R8", "operations of older terms commit by counting", "leading.py",
             "if index > s.commit_index and index >= lead.first_index:", "if index > s.commit_index:", "figure_8"),
    Mutation("R9", "a configuration takes effect when committed", "configuration.py",
             "            self.pending.append(config)\n            self.active = config\n",
             "            self.pending.append(config)\n", "config_takes_effect_when_appended"),
    Mutation("R9", "several changes at a time", "handover.py",
             "    if s.configs.pending:\n        return Refusal.CHANGE_PENDING\n", "", "one_change_at_a_time"),
    Mutation("R9", "two voters in one change", "configuration.py", "if len(set(config.voters) ^ set(after.voters)) > 1:",
             "if len(set(config.voters) ^ set(after.voters)) > 2:", "one_change_at_a_time"),
    Mutation("R9", "a change before the term's first commit", "handover.py",
             "    if s.commit_index < lead.first_index:\n        return Refusal.NOT_READY\n", "", "change_waits_for_own_term"),
    Mutation("R9", "compare-and-swap is not compared", "handover.py",
             "if cas_opid_index is not None and cas_opid_index != committed.opid_index:", "if cas_opid_index == -999:",
             "config_serialised_by_index"),
    Mutation("R9", "a replaced configuration stays", "state.py",
             "        if self.configs.truncate_after(index):\n            self.refresh_role()\n", "",
             "new_leader_aborts_a_change"),
    Mutation("R9", "the committed configuration is not persisted", "state.py",
             "            self.effects.append(PersistConfig(self.configs.committed))\n", "            pass\n",
             "config_serialised_by_index"),
    Mutation("R10", "learners are counted", "configuration.py", "p.peer_id for p in self.peers if p.member_type is MemberType.VOTER",
             "p.peer_id for p in self.peers", "learner_does_not_count"),
    Mutation("R10", "a learner refuses its vote", "voting.py", "    behind = request.last_received < s.last_received\n",
             "    behind = request.last_received < s.last_received or not s.is_voter()\n", "learner_must_vote"),
    Mutation("R10", "learners are never promoted", "leading.py", "        promote(s, p)\n", "", "learner_is_promoted"),
    Mutation("R11", "a sitting leader stands", "voting.py",
             "if s.leadership is None and s.standing_role() is", "if s.standing_role() is",
             "sitting_leader_never_stands"),
    Mutation("R11", "votes are not withheld", "voting.py",
             "if not request.ignore_live_leader and (s.leadership is not None or s.now_us < s.withhold_until_us):",
             "if False:", "votes_are_withheld"),
    Mutation("R11", "no pre-election", "voting.py", "        stand(s, Mode.PRE)\n", "        stand(s, Mode.REAL)\n",
             "votes_are_withheld"),
    Mutation("R11", "a restart stands at once", "voting.py", "    elif s.term == 0:\n", "    else:\n", "restart_waits"),
    Mutation("R11", "late ticks count as silence", "voting.py", "if (late and not s.excused) or s.waiting:", "if s.waiting:",
             "election_storm"),
    Mutation("R11", "a slow disk counts as silence", "voting.py", "if (late and not s.excused) or s.waiting:",
             "if late and not s.excused:", "slow_disk_is_not_silence"),
    Mutation("R11", "a denial's term is not learned", "voting.py",
             "    if response.responder_term > s.term and not response.granted:\n",
             "    if response.responder_term > s.term and not response.granted and not response.is_pre_election:\n",
             "stuck_after_five_elections"),
    Mutation("R11", "a lost connection means nothing", "voting.py", "        s.withhold_until_us = 0\n        if s.election_at",
             "        if s.election_at", "leaders_connection_is_reset"),
    Mutation("R12", "a leader stays one in a higher term", "leading.py",
             "    if response.term > s.term:\n        s.advance_term(response.term)\n        return\n", "",
             "answer_with_higher_term"),
    Mutation("R12", "replaced operations are not aborted", "state.py",
             "        self.effects.append(AbortRounds(terms.opid_at(index + 1), terms.last))\n", "", "replaced_operations"),
    Mutation("R12", "an isolated leader leads on", "leading.py",
             "if not late and quorum_contact_us(s) < s.now_us - s.timing.election_timeout_us:", "if False:",
             "isolated_leader_steps_down"),
    Mutation("R13", "acknowledged before it is durable", "following.py",
             "if request.runs and s.durability.index < end_index:", "if False:", "acknowledged_when_durable"),
    Mutation("R13", "acknowledges what is appended, not what is durable", "state.py",
             "agreed = min(self.matched_index, self.durability.index)", "agreed = self.matched_index",
             "heartbeat_acknowledges_what_is_durable"),
    Mutation("R13", "reports of the disk are taken by index", "durability.py",
             "        self._unsynced = deque((batch, min(last, index)) for batch, last in self._unsynced)\n", "",
             "late_report_of_the_disk"),
    Mutation("R14", "commits what its own disk has not", "leading.py", "    index = min(counted, durable)\n",
             "    index = counted\n", "commit_waits_for_own_disk"),
    Mutation("R15", "safe time is the leader's clock", "leading.py", "    floor = majority_value([s.times.floor if v == s.me",
             "    floor = max([s.times.floor if v == s.me", "safe_time_waits_for_a_majority"),
    Mutation("R15", "a follower adopts safe time before it has committed", "following.py",
             "s.times.declare(request.committed_index, request.safe_time)", "s.times.declare(0, request.safe_time)",
             "safe_time_waits_for_the_commit"),
    Mutation("R15", "safe time passes operations under way", "safe_time.py",
             "        if uncommitted:\n            bound = min(bound, uncommitted[0][1] - 1)\n", "",
             "safe_time_stops_before_operations_under_way"),
    Mutation("R15", "a voter that forgot its promises votes at once", "state.py",
             "return self.clock >= self.unsure_until", "return True", "forgotten_promises_of_time"),
    Mutation("R16", "an operation keeps its round when another leader replaces it", "state.py",
             "AbortRounds(terms.opid_at(index + 1), terms.last)", "AbortRounds(terms.opid_at(index + 1), terms.opid_at(index + 1))",
             "replaced_operations"),
    Mutation("replication", "a peer goes back one by one", "progress.py",
             "        if terms.holds(last):\n            next_index = last.index + 1\n",
             "        if terms.holds(last):\n            next_index = self.next_index - 1\n", "log_matching_goes_back"),
    Mutation("replication", "stale rejections are believed", "progress.py",
             "        if response.seq <= self.rewound_seq or response.seq < self.acked_seq:\n            return False\n", "",
             "stale_rejections_are_many"),
    Mutation("replication", "what a peer did not take is not sent again", "progress.py",
             "            self._restart(self.match_index + 1)\n            self.rewound_seq = newest_seq\n        if self.next",
             "            pass\n        if self.next", "memory_is_short"),
    Mutation("replication", "the all-replicated watermark ignores the slowest", "replication.py",
             "        if p.match_index < lowest:\n", "        if p.match_index > lowest:\n", "all_replicated_watermark"),
    Mutation("reads", "a leader answers reads by itself", "leading.py",
             "ready = [b for b in lead.barriers if b.seq < seq]", "ready = list(lead.barriers)", "reads_do_not_trust_clocks"),
    Mutation("reads", "a new leader answers before its NO_OP is committed", "leading.py",
             "    if s.commit_index < lead.first_index:\n        s.refuse(event.token, Refusal.NOT_READY)\n        return\n", "",
             "new_leader_reads_late"),
    Mutation("transfer", "a successor that is behind is told to stand", "handover.py",
             "transfer.told or p.match_index != s.terms.last_index:", "transfer.told:", "graceful_transfer"),
    Mutation("transfer", "proposals go on during a transfer", "leading.py",
             "    elif lead.transfer is not None:\n        s.refuse(event.token, Refusal.TRANSFERRING)\n    elif event.first",
             "    elif event.first", "graceful_transfer"),
    Mutation("transfer", "a transfer never ends", "leading.py", "        lead.transfer = None\n", "", "transfer_that_fails"),
    Mutation("term start", "no NO_OP", "leading.py", "    append_own(s, Run(s.term, index, index, Kind.NO_OP))\n", "",
             "election"),
]


def mutated(mutation: Mutation, into: Path) -> None:
    shutil.copytree(ROOT / "consensus", into / "consensus", ignore=shutil.ignore_patterns("__pycache__"))
    path = into / "consensus/raft" / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        raise SystemExit(f"{mutation.what}: the text to replace is {text.count(mutation.old)} times in {mutation.file}")
    path.write_text(text.replace(mutation.old, mutation.new))


def _run(into: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(into), str(ROOT / "tests"), str(ROOT)])
    return subprocess.run([sys.executable, "-B", *arguments], env={**os.environ, "PYTHONPATH": path}, capture_output=True,
                          text=True, timeout=600, cwd=into)


_PLAY = ("import sys; from pathlib import Path; from sim.stage import Stage; import consensus.raft as r; "
         "assert r.__file__.startswith(sys.argv[2]), r.__file__; Stage().play(Path(sys.argv[1]))")


def by_scenario(mutation: Mutation, into: Path) -> str | None:
    """The line of the transcript that notices, or None."""
    done = _run(into, "-c", _PLAY, str(ROOT / "tests/scenarios" / f"{mutation.scenario}.txt"), str(into))
    if not done.returncode:
        return None
    line = re.search(rf"{mutation.scenario}\.txt:\d+: .*", done.stderr)
    return line[0] if line else done.stderr.strip().splitlines()[-1]


def by_seed(into: Path, seeds: int) -> str | None:
    """The first seed that notices, and what it says."""
    done = _run(into, "-m", "sim.run", "--seeds", f"0:{seeds}", "--first")
    if not done.returncode:
        return None
    seed = re.search(r"of seed (\d+)", done.stdout)
    said = done.stdout.strip().splitlines()[0] if done.stdout.strip() else done.stderr.strip().splitlines()[-1]
    return f"seed {seed[1] if seed else '?'}: {said}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="rules, such as R8; all by default")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="at most so many for each; 0: transcripts only")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    survivors = 0
    if arguments.markdown:
        print("| rule | mutation | transcript and line that notice | first seed that notices |\n| --- | --- | --- | --- |")
    for mutation in MUTATIONS:
        if arguments.names and mutation.rule not in arguments.names:
            continue
        path = ROOT / "tests/scenarios" / f"{mutation.scenario}.txt"
        if mutation.scenario and not path.exists():
            raise SystemExit(f"no transcript {path}")
        with tempfile.TemporaryDirectory() as folder:
            into = Path(folder)
            mutated(mutation, into)
            scenario = by_scenario(mutation, into) if mutation.scenario else None
            seed = by_seed(into, arguments.seeds) if arguments.seeds else None
        missed = (mutation.scenario and scenario is None) or (scenario is None and seed is None)
        survivors += bool(missed)
        scenario, seed = scenario or ("MISSED" if mutation.scenario else "-"), seed or "-"
        if arguments.markdown:
            print("| " + " | ".join(t.replace("|", "\\|")[:110] for t in (mutation.rule, mutation.what, scenario, seed)) + " |",
                  flush=True)
        else:
            print(f"{'SURVIVED' if missed else 'caught  '} {mutation.rule:<12} {mutation.what}\n"
                  f"         {scenario}\n         {seed}", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
