"""The replay decisions of rules.pxd, callable from Python: for tests and for people who want to see one decided."""

REPLICATE_VERDICTS = {
    REPLICATE_APPEND: "append", REPLICATE_REPLACE: "replace", REPLICATE_GAP: "gap",
    REPLICATE_BELOW_APPLIED: "below_applied", REPLICATE_OVER_COMMITTED: "over_committed",
}
COMMIT_VERDICTS = {
    COMMIT_BUFFER: "buffer", COMMIT_ORPHAN: "orphan", COMMIT_WITHOUT_REPLICATE: "without_replicate",
    COMMIT_OTHER_TERM: "other_term", COMMIT_TWICE: "twice",
}
KINDS = {"insert": KIND_INSERT, "upsert": KIND_UPSERT, "update": KIND_UPDATE, "delete": KIND_DELETE}
OUTCOMES = {
    "failed": OUTCOME_FAILED, "nothing": OUTCOME_NOTHING, "mutated": OUTCOME_MUTATED, "flushed": OUTCOME_FLUSHED,
    "open": OUTCOME_OPEN,
}
KNOWLEDGE = {"unknown": ROW_UNKNOWN, "dead": ROW_DEAD, "live": ROW_LIVE}
ACTIONS = {
    ACTION_NONE: "none", ACTION_INSERT: "insert", ACTION_UPDATE: "update", ACTION_DELETE: "delete",
    ACTION_REMEMBER_DEAD: "remember_dead", ACTION_UNKNOWN: "unknown", ACTION_CONTRADICTION: "contradiction",
}


def replicate_verdict(index, first_pending, next_index, highest_committed):
    """See judge_replicate in rules.pxd."""
    return REPLICATE_VERDICTS[judge_replicate(index, first_pending, next_index, highest_committed)]


def commit_verdict(index, term, first_index, first_pending, next_index, pending_term, has_commit):
    """See judge_commit in rules.pxd."""
    return COMMIT_VERDICTS[judge_commit(index, term, first_index, first_pending, next_index, pending_term, has_commit)]


def row_action(str kind, bint ignore, str outcome, str row, bint sets_all, bint sets_immutable):
    """See judge_row in rules.pxd; the names are the keys of KINDS, OUTCOMES, KNOWLEDGE and the values of ACTIONS."""
    return ACTIONS[judge_row(<RowKind> <int> KINDS[kind], ignore, <RowOutcome> <int> OUTCOMES[outcome],
                             <RowKnowledge> <int> KNOWLEDGE[row], sets_all, sets_immutable)]
