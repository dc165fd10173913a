REPLICATE_VERDICTS: dict[int, str]
COMMIT_VERDICTS: dict[int, str]
KINDS: dict[str, int]
OUTCOMES: dict[str, int]
KNOWLEDGE: dict[str, int]
ACTIONS: dict[int, str]

def replicate_verdict(index: int, first_pending: int, next_index: int, highest_committed: int) -> str: ...
def commit_verdict(index: int, term: int, first_index: int, first_pending: int, next_index: int, pending_term: int,
                   has_commit: bool) -> str: ...
def row_action(kind: str, ignore: bool, outcome: str, row: str, sets_all: bool, sets_immutable: bool) -> str: ...
