"""The groups of mailboxes: finding them, beginning them, and letting those go that nobody uses."""

from __future__ import annotations

from mq9_broker import keys
from mq9_broker.deadletters import DeadLetters
from mq9_broker.errors import Mq9Error
from mq9_broker.group import Group
from mq9_broker.leases import Holder
from mq9_broker.mailboxes import Mailbox, Mailboxes
from mq9_broker.messages import Messages
from mq9_broker.receipts import Receipts

MAX_AHEAD = 10_000


class Groups:
    """Finds and begins groups."""

    def __init__(self, mailboxes: Mailboxes, messages: Messages, receipts: Receipts, dead_letters: DeadLetters) -> None:
        self.mailboxes = mailboxes
        self.messages = messages
        self.receipts = receipts
        self.dead_letters = dead_letters

    def find(self, mailbox: Mailbox, name: str) -> Group | None:
        """The group of that name, if it exists."""
        group = mailbox.groups.get(name)
        if group is None and mailbox.group_count:
            value = mailbox.pending.get(keys.group(mailbox.incarnation, name))
            if value is not None:
                group = Group(mailbox, name, self)
                group.load(value)
                mailbox.groups[name] = group
        return group

    def open(self, mailbox: Mailbox, name: str, start: int, now: int) -> Group:
        """The group of that name; a new one starts behind the id `start`."""
        group = self.find(mailbox, name)
        if group is None:
            self._require_place(mailbox, name)
            group = Group(mailbox, name, self)
            mailbox.groups[name] = group
            group.begin(start, now)
        group.use(now)
        return group

    def _require_place(self, mailbox: Mailbox, name: str) -> None:
        limit = self.mailboxes.limits.max_groups
        if mailbox.settings.retain_ack and mailbox.group_count:
            there = [*mailbox.groups]
            if not there:
                prefix = keys.group(mailbox.incarnation, "")
                there = [key[len(prefix) :].decode() for key, _ in mailbox.pending.scan(prefix, prefix + b"\xff")]
            raise Mq9Error(
                f"group {name} can't be added: the mailbox deletes what is acknowledged (retain ack), so it has one "
                f"group, {there[0]}; use that one"
            )
        if mailbox.group_count >= limit:
            raise Mq9Error(f"group {name} can't be added: the mailbox has {limit} groups, the most it may have")

    def look(self, mailbox: Mailbox, name: str, now: int) -> None:
        """Drop a group that nobody has used for seven days; else look again tomorrow."""
        group = self.find(mailbox, name)
        if group is None:
            return
        if not group.unused(now):
            group.look_again(now)
            return
        del mailbox.groups[name]
        group.leases.close()
        mailbox.group_count -= 1
        mailbox.pending.delete(keys.group(mailbox.incarnation, name))
        self.mailboxes.touch(mailbox)


def check_acknowledge(group: Group | None, mailbox: Mailbox, msg_ids: list[int], holder: Holder) -> None:
    """Mq9Error when one of these can't be acknowledged by `holder`. `group` is None when it does not exist yet."""
    for msg_id in msg_ids if _wrong(group, mailbox, msg_ids, holder) else ():
        if msg_id > mailbox.last_id:
            raise Mq9Error(f"message {msg_id} does not exist: the newest is {mailbox.last_id}")
        if group is not None and group.leases.held_by_other((msg_id,), holder):
            raise Mq9Error(f"message {msg_id} is leased to another member of the group")
    if len(msg_ids) + (group.ahead if group is not None else 0) > MAX_AHEAD:
        raise Mq9Error(f"the group has too many acknowledgements ahead of its position, {MAX_AHEAD} at the most: FETCH")


def _wrong(group: Group | None, mailbox: Mailbox, msg_ids: list[int], holder: Holder) -> bool:
    """Whether one of these does not exist or is leased to somebody else."""
    if msg_ids and max(msg_ids) > mailbox.last_id:
        return True
    return group is not None and group.leases.held_by_other(msg_ids, holder)


def check_group(name: str) -> str:
    """`name`, or Mq9Error with the rule it breaks."""
    if not 1 <= len(name) <= 128 or not name.isprintable() or any(character.isspace() for character in name):
        raise Mq9Error(f"group_name {name[:140]!r} is not allowed: 1 to 128 printable characters without spaces")
    return name
