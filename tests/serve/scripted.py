"""A model whose answers are written beforehand, in place of one that computes: everything around it is real."""

import time

from didact.rollout.decoder import Completion
from didact.run.named import open_model
from didact.serve.lane import Lane
from didact.serve.served import Served

LONGEST = 4096


class Scripted(Lane):
    """Says what ``says(prompt, seed)`` gives, ``size`` characters a step and ``pause`` seconds between two."""

    def __init__(self, named, says, size=12, pause=0.0):
        super().__init__(named)
        self.longest, self.says, self.size, self.pause = LONGEST, says, size, pause
        self.under_way = {}

    def admit(self, jobs):
        for job in jobs:
            text = self.says(self.renderer.decode(job.ask.prompt), job.ask.sampling.seed)
            self.under_way[job] = (text, Completion(job.index))
        return []

    def step(self):
        time.sleep(self.pause)
        for job, (text, out) in self.under_way.items():
            bound = job.ask.sampling.max_new_tokens
            out.text = text[: len(out.text) + self.size]
            out.tokens.append(0)
            out.logprobs.append(0.0)
            out.reason = "stop" if out.text == text else "length" if len(out.tokens) >= bound else ""
        return [*self.under_way]

    def cancel(self, job):
        del self.under_way[job]

    def out(self, job):
        out = self.under_way[job][1]
        if out.reason:
            del self.under_way[job]
        return out

    def certain(self, job):
        return len(self.under_way[job][1].text)


def scripted(folder, says, name="tiny", **fields):
    named = open_model(str(folder), "cpu", lambda line: None)
    return Served(name, named, Scripted(named, says, **fields))
