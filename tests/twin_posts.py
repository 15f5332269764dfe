"""The slow twin of messages that both sides post (p2p=megatron, p2p=torch), written from the meaning: who posts what when.

Shares no code with `hops.posts`: no order is found, a message's arrival is asked for and follows from those before it.
"""

import math


def halves(unit):
    return unit if isinstance(unit[0], tuple) else (unit,)


class Posts:
    """What each rank of ``program`` posts behind which of its units, and when messages arrive; ``taken``: (from, to) -> ticks."""

    def __init__(self, program, p2p, recv, taken):
        self.units, self.p2p, self.taken = program.ranks, p2p, taken
        self.home = {(op.stage, op.microbatch): r for r, rank in enumerate(program.ops) for op in rank}
        self.when = {(r, -1): 0 for r in range(len(self.units))}  # (rank, step) -> when that unit has ended
        self.known, self.asked = {}, set()
        where = self.in_need() if p2p == "megatron" else self.torch_order()
        if p2p == "torch" and recv == "defer":
            where = [self.deferred(r, posts) for r, posts in enumerate(where)]
        self.batches = {}  # rank or (rank, peer) -> [(step, messages)]
        for r, posts in enumerate(where):
            for step in range(-1, len(self.units[r])):
                mine = [message for at, message in posts if at == step]
                for stream, batch in self.megatron(r, mine) if p2p == "megatron" else self.torch(r, mine):
                    self.batches.setdefault(stream, []).append((step, batch))

    def goal(self, message):
        stage, backward, k = message
        return self.home.get((stage - 1 if backward else stage + 1, k))

    def sends(self, rank, unit):
        made = [(op.stage, op.kind != "F", op.microbatch) for op in halves(unit) if op.kind != "W"]
        return [message for message in made if self.goal(message) not in (None, rank)]

    def needs(self, rank, unit):
        wanted = [(op.stage + (1 if op.kind in "BI" else -1), op.kind in "BI", op.microbatch) for op in halves(unit) if op.kind != "W"]
        return [message for message in wanted if self.home.get(message[::2]) not in (None, rank)]

    def in_need(self):
        """Sends behind their unit, receives right before theirs, but for W, which stands aside: before it."""
        where = []
        for r, units in enumerate(self.units):
            posts = []
            for step, unit in enumerate(units):
                before = step - 1
                while before >= 0 and halves(units[before])[0].kind == "W":
                    before -= 1
                posts += [(before, need) for need in self.needs(r, unit)] + [(step, made) for made in self.sends(r, unit)]
            where.append(posts)
        return where

    def torch_order(self):
        """Ranks in turn, a unit each; what it sends its goal receives behind the units that this has run by then."""
        where, done, sent = [[] for _ in self.units], [0] * len(self.units), set()
        while any(done[r] < len(units) for r, units in enumerate(self.units)):
            for r, units in enumerate(self.units):
                if done[r] < len(units) and all(need in sent for need in self.needs(r, units[done[r]])):
                    done[r] += 1
                    for made in self.sends(r, units[done[r] - 1]):
                        where[r].append((done[r] - 1, made))
                        where[self.goal(made)].append((done[self.goal(made)] - 1, made))
                        sent.add(made)
        return where

    def deferred(self, rank, posts):
        """Each receive as late as what follows it on its stream permits: a send, or a receive whose unit comes."""
        needed = {need: step for step, unit in enumerate(self.units[rank]) for need in self.needs(rank, unit)}
        latest, limit = {}, {}  # limit: of each peer, seen from the end
        for step, message in reversed(posts):
            peer = self.home[message[::2]] if message in needed else self.goal(message)
            limit[peer] = min(needed[message] - 1, limit.get(peer, math.inf)) if message in needed else step
            latest[message] = limit[peer]
        return [(latest[message], message) for _, message in posts]

    def megatron(self, rank, posts):
        out = [message for message in posts if self.home[message[::2]] == rank]
        back = [message for message in posts if message not in out and self.home[message[::2]] in [self.goal(m) for m in out]]
        rest = [message for message in posts if message not in out + back]
        return [(rank, batch) for batch in (out + back, rest) if batch]

    def torch(self, rank, posts):
        peer = {message: (self.home[message[::2]] if self.home[message[::2]] != rank else self.goal(message)) for message in posts}
        return [((rank, other), [m for m in posts if peer[m] == other]) for other in sorted(set(peer.values()))]

    def arrival(self, message):
        """When it has arrived; None if that cannot be said yet."""
        if message in self.known or message in self.asked:
            return self.known.get(message)
        self.asked.add(message)
        pair = self.home[message[::2]], self.goal(message)
        begins, places = [], []
        for rank, peer in (pair, pair[::-1]):
            stream = self.batches[rank if self.p2p == "megatron" else (rank, peer)]
            at = next(i for i, (_, batch) in enumerate(stream) if message in batch)
            step, batch = stream[at]
            places.append(batch)
            begins.append(self.when.get((rank, step)))
            begins += [self.arrival(other) for other in (stream[at - 1][1] if at else ())]
        # both of a unit that both sides have in one batch: in the sender's order
        before = places[0][: places[0].index(message)]
        begins += [self.arrival(m) for m in before if m in places[1] and (self.home[m[::2]], self.goal(m)) == pair]
        self.asked.discard(message)
        if None not in begins:
            self.known[message] = max(begins) + self.taken(pair)
        return self.known.get(message)

    def held(self, rank, step):
        """Messages that must have arrived before the rank runs that unit, besides its inputs."""
        units = self.units[rank]
        if self.p2p != "megatron" or halves(units[step])[0].kind == "W":
            return []
        before = max((i for i in range(step) if halves(units[i])[0].kind != "W"), default=None)
        return [] if before is None else self.sends(rank, units[before])
