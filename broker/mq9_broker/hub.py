"""Where a client's command meets the dialect and the engine, and where what happened meets the clients it wakes."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice, repeat
from random import Random
from typing import TYPE_CHECKING, Protocol

from mq9_broker import keys, subjects, wire
from mq9_broker.board import SUBJECT, Board
from mq9_broker.errors import Mq9Error
from mq9_broker.feeds import MAX_UNCONFIRMED, BoardFeed, DirectoryFeed, Feed, Hand, MailboxFeed, Member
from mq9_broker.group import Group
from mq9_broker.groups import Groups, check_group
from mq9_broker.mailboxes import Mailbox, Mailboxes
from mq9_broker.messages import Messages
from mq9_broker.model import NEVER, PREFIX, Change, Counters, Limits
from mq9_broker.receipts import Receipts
from mq9_broker.router import Router
from mq9_broker.session import SLICE, Confirmation, Session, Subscription
from mq9_broker.timers import Timers

if TYPE_CHECKING:
    from mq9_broker.dialects.reading import Fetch

#: What rests on the turn's writes: (output list, first and last place in it of the answer, session, subject, reply).
Promise = tuple[list[bytes], int, int, "Session", bytes, bytes]

_PREFIX = PREFIX.encode()
_FETCH = _PREFIX + b"MSG.FETCH."
_BROADCAST = _PREFIX + b"BROADCAST."
#: Seconds of a turn that one client may keep everybody else waiting with what it sent or reads.
SHARE = 0.005


class Dialect(Protocol):
    """What turns subjects and JSON into operations, and results into JSON."""

    def publish(self, session: Session, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> bytes | None:
        """The answer to a publish under the prefix; None when there is none (yet). Raises Mq9Error."""
        ...

    def store(self, subject: bytes, replies: list[bytes], payloads: list[bytes]) -> list[bytes]:
        """The answers to sends of nothing but a payload to one mailbox, or to requests for new mailboxes, when all of
        them are stored; empty when they have to be published one by one, nothing having happened."""
        ...

    def acknowledge(self, session: Session, signals: list[tuple[bytes, bytes]]) -> bool:
        """Whether all of these (subject, payload) acknowledged a message each; False when they have to be published one
        by one, nothing having happened."""
        ...

    def view(self, subject: bytes) -> tuple[str, bytes, bool, tuple[int, ...]] | None:
        """(kept address, form, bare, tiers) of a subscription to a mailbox; None when it is none."""
        ...


class Hub:
    """All sessions, and what connects them. `touched` are those with something to write at the end of the turn."""

    def __init__(
        self,
        mailboxes: Mailboxes,
        messages: Messages,
        groups: Groups,
        receipts: Receipts,
        board: Board,
        limits: Limits,
        choose: Random,
    ) -> None:
        self.mailboxes = mailboxes
        self.messages = messages
        self.groups = groups
        self.receipts = receipts
        self.board = board
        self.limits = limits
        self.counters = Counters()
        self.timers = Timers()
        self.now = 0
        #: bytes that clients have sent since the last commit, and what grew out of them in memory
        self.taken = 0
        #: the number of the turn, the seconds of it that one client may keep everybody else waiting, and until when the
        #: one that is served may
        self.turn = 0
        self.share = SHARE
        self.until = 0.0
        #: why the store does not take writes, empty when it does
        self.refusing = ""
        self.touched: list[Session] = []
        #: whether a turn ends: who is touched then is written to at once
        self.ending = False
        #: who has feeds that are behind, and how many of these have yet to be looked at: None is all
        self.draining: dict[Session, int | None] = {}
        self.wake_up: Callable[[], None] = _nobody
        #: ends the turn now, between two deliveries: what was said so far is written and takes no more memory
        self.end_turn: Callable[[], None] = _nobody
        #: seconds of a stopwatch
        self.elapsed: Callable[[], float] = float
        #: begins a backup into the folder of that name, calls back with "" or what went wrong; False: no such folder
        self.back_up: Callable[[str, Callable[[str], None]], bool] = _no_backups
        self.dialect: Dialect
        self.promises: list[Promise] = []
        #: what a FETCH of this turn leased and its answer has yet to say
        self.leased: list[tuple[Group, list[int]]] = []
        self.router = Router(self, choose.random)
        self._directory: dict[DirectoryFeed, None] = {}
        self._stirred: dict[Mailbox, None] = {}

    def touch(self, session: Session) -> None:
        """The session has something to write."""
        self.touched.append(session)
        if not self.ending:
            self.wake_up()

    @property
    def late(self) -> bool:
        """Whether the client that is served has had its share: what it sent beyond this command waits for others."""
        return self.elapsed() >= self.until

    # publishing

    def publish(self, session: Session, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> bool:
        """What a client publishes under the prefix; whether it has had its share."""
        session.pushed_to = True
        try:
            answer = self.dialect.publish(session, subject, reply, header, payload)
        except Mq9Error as refused:
            self.refuse(session, subject, reply, refused.text)
            return self.elapsed() >= self.until
        out = session.out
        place = len(out)
        if answer is not None and reply:
            session.reply(reply, answer)
        self.promises.append((out, place, len(out), session, subject, reply))
        return self.elapsed() >= self.until

    def store(self, listener: Subscription, subject: bytes, replies: list[bytes], payloads: list[bytes]) -> bool:
        """Store what a client sends to one mailbox in a row, or the mailboxes it asks for, where one subscription of it
        hears all the answers; False when it has to be published one by one."""
        answers = self.dialect.store(subject, replies, payloads)
        if not answers:
            return False
        session = listener.session
        session.pushed_to = True
        out = session.out
        place = len(out)
        session.reply_all(listener, replies, answers)
        self.promises.append((out, place, len(out), session, subject, replies[0]))
        return True

    def keep(self, session: Session, subject: bytes, payloads: list[bytes]) -> bool:
        """The same for what a client wants no answers to."""
        if not self.dialect.store(subject, [], payloads):
            return False
        self._promise(session, [subject] * len(payloads))
        return True

    def acknowledge(self, session: Session, signals: list[tuple[bytes, bytes]]) -> bool:
        """Take what a client publishes in a row as acknowledgements; False when it has to be published one by one."""
        if not self.dialect.acknowledge(session, signals):
            return False
        self._promise(session, [subject for subject, _ in signals])
        return True

    def _promise(self, session: Session, subjects: list[bytes]) -> None:
        """What was published to these rests on the turn's writes; nothing was answered."""
        session.pushed_to = True
        out = session.out
        place = len(out)
        self.promises += [(out, place, place, session, subject, b"") for subject in subjects]

    def refuse(self, session: Session, subject: bytes, reply: bytes, text: str) -> None:
        """Tell the one who caused it: by the reply where there is one to answer, else by -ERR."""
        if reply and not reply.startswith(_PREFIX):
            session.reply(reply, error_reply(text))
        else:
            session.send(wire.error(f'Permissions Violation for Publish to "{subject.decode("utf-8", "replace")}"'))

    # subscribing

    def subscribe(self, subscription: Subscription) -> bool:
        """Begin a subscription; False when it was refused, which its client has been told."""
        subject, queue = subscription.subject, subscription.queue
        if not subject.startswith(_PREFIX) or covers_broadcasts(subject):
            self.router.tree.insert(subject, queue, subscription)
            if not queue and subject.startswith(_BROADCAST) and subjects.matches(subject, SUBJECT):
                self._feed(subscription, BoardFeed(subscription, self.board))
            return True
        if subject == _PREFIX + b"PUBLIC.LIST" and not queue:
            feed = DirectoryFeed(subscription, self.mailboxes)
            self._directory[feed] = None
            self._feed(subscription, feed)
            return True
        view = self.dialect.view(subject)
        mailbox = self.mailboxes.find(view[0], self.now) if view else None
        if view is None or mailbox is None:
            self._refuse_subscription(subscription)
            return False
        _, form, bare, tiers = view
        if not queue:
            self._feed(subscription, MailboxFeed(subscription, mailbox, self.messages, form, bare, tiers))
            return True
        try:
            group = self.groups.open(mailbox, check_group(queue.decode("utf-8", "replace")), 0, self.now)
        except Mq9Error:
            self._refuse_subscription(subscription)
            return False
        subscription.feed = Member(subscription, group, self.messages, form, bare, tiers)
        subscription.session.pushed_to = True
        self.stir(mailbox)
        return True

    def _feed(self, subscription: Subscription, feed: Feed) -> None:
        subscription.feed = feed
        subscription.session.pushed_to = True
        subscription.session.behind[feed] = None
        self.draining[subscription.session] = None
        self.wake_up()

    def _refuse_subscription(self, subscription: Subscription) -> None:
        subject = subscription.subject.decode("utf-8", "replace")
        queue = f' using queue "{subscription.queue.decode("utf-8", "replace")}"' if subscription.queue else ""
        subscription.session.send(wire.error(f'Permissions Violation for Subscription to "{subject}"{queue}'))

    def unsubscribe(self, subscription: Subscription, returned: bool) -> None:
        """A session ended a subscription of its own."""
        feed = subscription.feed
        if feed is None or isinstance(feed, BoardFeed):
            self.router.tree.remove(subscription.subject, subscription)
        if feed is None:
            return
        subscription.feed = None
        feed.close()
        subscription.session.behind.pop(feed, None)
        if isinstance(feed, DirectoryFeed):
            del self._directory[feed]
        elif isinstance(feed, Member) and returned and not feed.explicit:
            # (who acknowledges may have unsubscribed to work off what it has)
            for msg_id in feed.group.leases.of((subscription.session, subscription)):
                feed.group.release(msg_id)
            self.stir(feed.mailbox)

    def leave(self, session: Session) -> None:
        """A connection is gone: its subscriptions end, what it had leased goes back."""
        session.closed = True
        self.draining.pop(session, None)
        for subscription in list(session.subscriptions.values()):
            session.end(subscription, returned=True)
        for group in session.groups:
            group.release_all(session)
            self.stir(group.mailbox)
        for waiter in list(session.waiters):
            self.stop_waiting(waiter)

    # groups and long polls

    def confirm(self, confirmed: list[Confirmation]) -> None:
        """A client answered a PING: what its groups gave it before has arrived."""
        for group, msg_ids, subscription in confirmed:
            done = group.confirm(msg_ids, (subscription.session, subscription), self.now)
            if done:
                if isinstance(subscription.feed, Member):
                    subscription.feed.out -= done
                self.stir(group.mailbox)

    def wait(self, fetch: Fetch, until: int) -> None:
        """Answer a FETCH when there is something for it, or at `until`."""
        fetch.timer = self.timers.at(until, lambda now: self._give_up(fetch, now))
        fetch.mailbox.waiters[fetch] = None
        fetch.session.waiters[fetch] = None
        self.wake_up()

    def stop_waiting(self, fetch: Fetch) -> None:
        """The FETCH needs no answer any more."""
        if fetch.timer is not None:
            fetch.timer.cancel()
        del fetch.mailbox.waiters[fetch]
        fetch.session.waiters.pop(fetch, None)

    def _give_up(self, fetch: Fetch, now: int) -> None:
        self.stop_waiting(fetch)
        fetch.session.reply(fetch.reply, fetch.answer(now))

    def watch_leases(self, group: Group, deadline: int) -> None:
        """See to it that leases of a group end in time."""
        if group.timer and group.timer <= deadline:
            return
        group.timer = deadline
        self.timers.at(deadline, lambda now: self._end_leases(group, deadline, now))

    def _end_leases(self, group: Group, deadline: int, now: int) -> None:
        if group.timer != deadline:
            return
        group.timer = 0
        following = group.release_due(now)
        self.stir(group.mailbox)
        if following:
            self.watch_leases(group, following)

    def delivered(self, mailbox: Mailbox, group: str, msg_id: int, value: bytes) -> None:
        """A watched message was written to a reader."""
        if not self.refusing and self.receipts.delivered(mailbox, group, msg_id, value, self.now):
            self.wake_up()

    def stir(self, mailbox: Mailbox) -> None:
        """Something may be there again for the readers that compete for this mailbox."""
        self._stirred[mailbox] = None
        self.wake_up()

    # what a committed turn wakes

    def publish_turn(
        self,
        sealed: list[tuple[Mailbox, int, list[tuple[int, int, bytes]]]],
        changes: list[Change],
        ended: list[Mailbox],
        now: int,
    ) -> None:
        """The turn's writes are kept: show them to those who listen."""
        for mailbox, newest, fresh in sealed:
            if newest > mailbox.visible:
                self.counters.stored += newest - mailbox.visible
                mailbox.visible = newest
            if fresh and mailbox.watchers:
                # (what was long on its way may have expired)
                fresh = sorted([entry for entry in fresh if (keys.expires_of(entry[2]) or NEVER) > now])
                for feed in list(mailbox.watchers):
                    if not feed.live:
                        continue
                    session = feed.subscription.session
                    if (session.paused or session.owed >= SLICE) and not isinstance(feed, Member):
                        self._fall_behind(feed)
                    else:
                        feed.push(fresh)
            if mailbox.waiters or mailbox.groups:
                # (what was taken away may have hidden what they wait for)
                self._stirred[mailbox] = None
        for mailbox in ended:
            self._end(mailbox)
        for change in changes:
            for directory in list(self._directory):
                directory.push(change)
        if self._stirred:
            stirred, self._stirred = self._stirred, {}
            for mailbox in stirred:
                if not mailbox.ended:
                    self._serve(mailbox, now)

    def look_again(self, mailboxes: list[Mailbox]) -> None:
        """A commit failed: readers of these go on with what the store holds now, or end with what it does not."""
        for mailbox in mailboxes:
            if mailbox.ended:
                self._end(mailbox)
                continue
            for feed in mailbox.watchers:
                if not isinstance(feed, Member):
                    self._fall_behind(feed)

    def _fall_behind(self, feed: MailboxFeed) -> None:
        """What comes for it is read from the store."""
        session = feed.subscription.session
        feed.live = False
        session.behind[feed] = None
        self.draining[session] = None

    def _end(self, mailbox: Mailbox) -> None:
        for group in mailbox.groups.values():
            group.leases.close()
        for feed in list(mailbox.watchers):
            feed.end()
        for waiter in list(mailbox.waiters):
            self.stop_waiting(waiter)
            waiter.session.reply(waiter.reply, error_reply(f"mailbox {waiter.shown} does not exist"))
        mailbox.groups.clear()  # (each refers to it)

    def _serve(self, mailbox: Mailbox, now: int) -> None:
        for group in list(mailbox.groups.values()):
            # a position that can't be stored must not move: readers of groups wait until the store writes again
            if self.refusing:
                continue
            if group.bury(now):
                self.wake_up()
            if group.members:
                self._dispatch(group, now)
        for waiter in list(mailbox.waiters):
            answer = waiter.try_again(now)
            if answer is not None:
                self.stop_waiting(waiter)
                waiter.session.reply(waiter.reply, answer)

    def _dispatch(self, group: Group, now: int) -> None:
        """Give out what a group has to members that can take it, message by message in turns."""
        while group.room > 0 and (ready := [member for member in group.members if member.ready]):
            # members of one connection get theirs in order: one by one
            shared = len({member.subscription.session for member in ready}) < len(ready)
            turns = deque(Hand(member, 1 if shared else MAX_UNCONFIRMED) for member in ready)
            tiers = tuple(sorted({tier for member in ready for tier in member.tiers}))
            room = min(group.room, sum(hand.room for hand in turns))
            full: list[Hand] = []
            left = room
            for tier, ids, values in group.take(tiers, room, group.mailbox.visible, now, SLICE * len(ready)):
                dealt = _deal(turns, full, tier, ids, values)
                left -= dealt
                if dealt < len(ids):
                    group.give_back(tier, *ids[dealt:])
                    left = 0
                    break
            for hand in (*full, *turns):
                if hand.messages:
                    # it goes to the back: equal members take turns
                    group.members.move_to_end(hand.member)
                    hand.member.give(hand.messages, now)
            if left:
                # that was all
                if group.unfinished:
                    self.stir(group.mailbox)
                break
        # who has been given enough for this turn may be the only one that reads what is left
        if any(member.ready_soon and not member.ready for member in group.members):
            self.stir(group.mailbox)

    def drain(self, now: int) -> None:
        """One slice for every feed that is behind and whose socket takes it, as many as a share of time allows."""
        # (each commit that fails makes feeds look again: those would never be done)
        until = math.inf if self.refusing else self.elapsed() + self.share
        for session in list(self.draining):
            if session.paused or session.closed:
                continue
            left = self._drain(session, until, now)
            self.draining.pop(session, None)
            if left != 0:
                # it goes to the back: clients take turns
                self.draining[session] = left
            if self.elapsed() >= until:
                break
        if any(not session.paused for session in self.draining):
            self.wake_up()

    def _drain(self, session: Session, until: float, now: int) -> int | None:
        """One slice for the feeds of a client; how many have yet to be looked at."""
        more = False
        # (of answers only their payloads are owed so far)
        session.owed = max(session.owed, sum(map(len, session.out)))
        behind = list(islice(session.behind, self.draining[session]))
        for number, feed in enumerate(behind, 1):
            if session.owed and session.room <= 0:
                return None
            if feed.drain(now):
                more = True
            if feed in session.behind:
                # it goes to the back: the feeds of a client take turns
                del session.behind[feed]
                if not feed.live:
                    session.behind[feed] = None
            if self.elapsed() >= until:
                return None if more else len(behind) - number
        return None if more else 0

    def resume(self, session: Session) -> None:
        """The client's socket takes data again."""
        if session.behind:
            self.draining[session] = None
        for group in session.groups:
            self.stir(group.mailbox)
        self.wake_up()

    def break_promises(self, promises: list[Promise], reason: str) -> None:
        """A commit failed: every answer that rested on it becomes an error, in its place."""
        text = f"the store cannot write: {reason}"
        failure = error_reply(text)
        for out, start, stop, session, subject, reply in promises:
            for place in range(start, stop):
                _, answered, sid, _ = out[place].split(b" ", 3)
                out[place] = wire.message(answered, sid, b"", failure)
            if start < stop:
                continue
            waiter = next((waiter for waiter in session.waiters if waiter.reply == reply), None) if reply else None
            if waiter is not None:
                self.stop_waiting(waiter)
            elif reply and subject.startswith(_FETCH):
                continue  # its time was over first, or it has been given something: it is answered
            kept, session.out = session.out, out
            self.refuse(session, subject, reply, text)
            session.out = kept


def _deal(turns: deque[Hand], full: list[Hand], tier: int, ids: Sequence[int], values: list[bytes]) -> int:
    """Deal messages of one tier to those that read it, in turns; gives how many. Who takes no more is `full`."""
    for dealt, message in enumerate(zip(repeat(tier), ids, values)):
        if turns and tier in turns[0].member.tiers:
            hand = turns.popleft()
        elif found := [hand for hand in turns if tier in hand.member.tiers]:
            hand = found[0]
            turns.remove(hand)
        else:
            return dealt
        (turns if hand.take(message) else full).append(hand)
    return len(ids)


def covers_broadcasts(pattern: bytes) -> bool:
    """Whether a pattern under the prefix can match a broadcast: then it is an ordinary subscription to those."""
    tokens = pattern.split(b".")[2:]
    if not tokens or tokens[0] not in (b"BROADCAST", b"*", b">"):
        return False
    if tokens[0] != b"BROADCAST" and not subjects.is_wildcard(pattern):
        return False
    return tokens[0] == b">" or tokens[-1] == b">" or len(tokens) >= 3


def error_reply(text: str) -> bytes:
    """The JSON answer to what failed."""
    return json.dumps({"error": text}, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def _nobody() -> None:
    return


def _no_backups(name: str, answer: Callable[[str], None]) -> bool:
    return False
