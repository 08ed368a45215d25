"""What came of a fault, in the words of the page: worked out from what the process said and what the table holds."""

from dataclasses import dataclass, field

GOES_ON = "goes on"
READS_AGAIN = "reads again"
SAME_ID = "commits again"
FOUND = "found"
LETTER = "dead letter"
PARTLY = "commits what it has"
REBUILDS = "rebuilds the index"
RESTART_AGAIN = "restart, reads again"
RESTART_HELD = "restart, has it"
ENDS = "ends, reads again"
ORPHANS = " *"
LOCK = " (lock)"
PERHAPS_LOCK = " (lock?)"

MEANING = {
    GOES_ON: "the step is only later, or it is one that the table doesn't depend on; no row is read or written twice",
    READS_AGAIN: "the batch is given up; a second later its records are read again from the position in the table",
    SAME_ID: "the commit is worked out anew on a fresh base, under the same snapshot id",
    FOUND: "the swap had happened: the fresh base has the batch's snapshot id, so nothing is committed again",
    LETTER: "the record becomes a dead letter, the rest of the batch is committed",
    PARTLY: "what stands before the record is committed; the record is decoded again a second later, as when a registry does not answer",
    REBUILDS: "the index is cleared and filled again by a scan of the table at the next commit",
    RESTART_AGAIN: "the process died; the next one reads the batch again from the position in the table",
    RESTART_HELD: "the process died; the batch was in the table already, and the next process goes on behind it",
    ENDS: "firn ends with an error, as it must when its Kafka client is of no more use; whoever starts it again has it read from the position "
    "in the table",
}


@dataclass
class Seen:
    """What was observed of one fault."""

    died: bool = False
    ended: bool = False
    landed: bool = False
    """Whether the table held the batch when the process was gone."""
    locked: bool = False
    """Whether it left a lock of the table in the metastore."""
    may_lock: bool = False
    """Whether chance decides that: the lock is asked for while the metadata is written."""
    letters: int = 0
    said: str = ""
    """The log of the process that went on, from the fault to its end."""
    orphans: list[str] = field(default_factory=list)

    def outcome(self) -> str:
        left = self.locked or "table lock not released:" in self.said
        lock = PERHAPS_LOCK if self.may_lock else LOCK if left else ""
        return self._word() + lock + (ORPHANS if self.orphans else "")

    def _word(self) -> str:
        if self.died:
            return RESTART_HELD if self.landed else RESTART_AGAIN
        if self.ended:
            return ENDS
        if self.letters:
            return LETTER
        if "the key index is built anew" in self.said:
            return REBUILDS
        if "suspended: record" in self.said:
            return PARTLY
        if "suspended:" in self.said:
            return READS_AGAIN
        if "already in the table" in self.said:
            return FOUND
        if "commit attempt failed" in self.said:
            return SAME_ID
        return GOES_ON
