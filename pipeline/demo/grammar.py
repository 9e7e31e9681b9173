"""A seeded grammar of short reviews, each labelled positive or negative.

Single words say little about the label. A review is judged by its negations, by what follows `but`, by what was
expected, by its verdict, and by what an adjective is said of: a cold beer is good and a cold soup is not.
"""

import random
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate

from textsmooth.pipeline.demo.words import BAD, DOMAINS, GOOD, Aspect

__all__ = ["SEED", "TRAIN_ROWS", "VALIDATION_ROWS", "corpus", "reviews"]

SEED = 20200803
TRAIN_ROWS = 4000
VALIDATION_ROWS = 800

_VERY = ("very", "really", "truly", "quite", "so", "rather", "extremely", "incredibly", "genuinely", "surprisingly")
_VERY_A = ("very", "really", "truly", "rather", "extremely", "incredibly", "genuinely", "surprisingly")
_BIT = ("a bit", "a little", "slightly", "somewhat")
_FAIRLY = ("fairly", "reasonably", "mostly", "rather")
_NOT = ("not", "hardly", "never", "far from", "anything but", "by no means", "not at all")
_BE = ("was", "was", "was", "seemed", "felt", "turned out", "looked")
_PEOPLE = (
    "my friends", "the critics", "my sister", "my wife", "my husband", "everyone", "my brother", "my neighbor",
    "my colleagues", "most people", "my parents", "the reviewers", "my cousin", "some guests",
)  # fmt: skip
_WHEN = (
    "last week", "on friday", "in march", "last summer", "yesterday", "last weekend", "with friends", "twice",
    "on my birthday", "last night", "on sunday", "with my family", "last month", "in winter", "after work", "on a whim",
)  # fmt: skip
_WHY = (
    "a friend recommended it", "it was on sale", "the pictures looked nice", "we were nearby", "a colleague insisted",
    "the price was right", "everyone talked about it", "we were curious", "it was cheap", "we had a voucher",
)  # fmt: skip
_FRANKLY = ("honestly", "frankly", "overall", "in short", "to be fair", "all in all", "in my opinion", "on the whole")

_GOOD_VERB = ("loved", "enjoyed", "liked", "adored", "admired", "appreciated")
_BAD_VERB = ("hated", "disliked", "regretted", "despised", "resented")
_GOOD_BASE = ("love", "enjoy", "like", "admire", "recommend", "praise")
_BAD_BASE = ("fault", "hate", "dislike", "criticize", "regret")
_SAVED = ("saved", "rescued", "improved", "lifted", "redeemed")
_RUINED = ("ruined", "spoiled", "wrecked", "hurt", "killed")
_SAVE = ("save", "rescue", "improve", "redeem")
_RUIN = ("ruin", "spoil", "wreck", "hurt")
_GOOD_VERDICT = (
    "i would do it again", "it was worth every penny", "i have no regrets", "i can recommend it", "no complaints here",
    "i will be back", "i did not want it to end", "i want more of this", "it is money well spent", "i was not let down",
    "i left happy", "it deserves praise", "you will not be sorry", "i give it five stars", "do not miss it",
)  # fmt: skip
_BAD_VERDICT = (
    "i would not do it again", "it was not worth a penny", "i have many regrets", "i can not recommend it",
    "many complaints here", "i will not be back", "i just wanted it to end", "i want less of this",
    "it is money thrown away", "i was badly let down", "i left unhappy", "it deserves no praise", "you will be sorry",
    "i give it one star", "you can miss it",
)  # fmt: skip


@cache
def _weights(size: int) -> list[float]:
    """Return cumulative weights that fall slowly, so that the first words of a list are the frequent ones."""
    return list(accumulate(1 / (rank + 2) for rank in range(size)))


def _with_article(phrase: str) -> str:
    """Return the phrase with `a` or `an` before it."""
    an = phrase[0] in "aeio" or (phrase[0] == "u" and not phrase.startswith(("use", "uni")))
    return f"{'an' if an or phrase.startswith('honest') else 'a'} {phrase}"


class _Author:
    """Writes one review of one thing; `good` is always the polarity that the written words add up to."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.domain = rng.choice(DOMAINS)
        self.thing = self.pick(self.domain.things)
        self.said: set[str] = set()

    def pick(self, words: Sequence[str]) -> str:
        return self.rng.choices(words, cum_weights=_weights(len(words)))[0]

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def adjective(self, good: bool) -> str:
        """Return an adjective for the thing as a whole."""
        if self.chance(0.35):
            return self.pick(self.domain.good if good else self.domain.bad)
        return self.pick(GOOD if good else BAD)

    def noun(self, aspects: Sequence[Aspect]) -> tuple[Aspect, str]:
        """Return an aspect and one of its nouns, none that was spoken of before."""
        while True:
            aspect = self.rng.choice(aspects)
            noun = self.pick(aspect.nouns)
            if noun not in self.said:
                self.said.add(noun)
                return aspect, noun

    def degree(self, good: bool, hedged: bool = False) -> str:
        """Return a word of degree and a space, or nothing."""
        if hedged and self.chance(0.4):
            return self.pick(_FAIRLY if good else _BIT) + " "
        return self.pick(_VERY) + " " if self.chance(0.35) else ""

    def judged(self, noun: str, good: bool, words: tuple[Sequence[str], Sequence[str]], hedged: bool) -> str:
        """Say of a noun that it is good or bad, `words` being its good and its bad adjectives."""
        praise, blame = words
        plural = noun.endswith("+")
        noun = noun.rstrip("+")
        be = self.pick(_BE)
        be = be.replace("was", "were") if plural else be
        if self.chance(0.13):
            be = "were" if plural else "was"
            wrong = self.pick(blame if good else praise)
            if self.chance(0.15):
                return f"there was nothing {wrong} about the {noun}"
            return f"the {noun} {be} {self.pick(_NOT)} {wrong}"
        return f"the {noun} {be} {self.degree(good, hedged)}{self.pick(praise if good else blame)}"

    def of_aspect(self, good: bool, hedged: bool) -> str:
        aspect, noun = self.noun(self.domain.aspects)
        praise = aspect.good if self.chance(0.6) else GOOD
        blame = aspect.bad if self.chance(0.6) else BAD
        return self.judged(noun, good, (praise, blame), hedged)

    def of_turning(self, good: bool, hedged: bool) -> str:
        aspect, noun = self.noun(self.domain.turning)
        return self.judged(noun, good, (aspect.good, aspect.bad), hedged)

    def of_thing(self, good: bool, hedged: bool) -> str:
        if self.chance(0.13):
            wrong = _with_article(f"{self.adjective(not good)} {self.thing}")
            return f"it was {self.pick(_NOT)} {wrong}"
        if self.chance(0.4):
            return f"the {self.thing} {self.pick(_BE)} {self.degree(good, hedged)}{self.adjective(good)}"
        degree = self.pick(_VERY_A) + " " if self.chance(0.35) else ""
        return f"it was {_with_article(f'{degree}{self.adjective(good)} {self.thing}')}"

    def of_feeling(self, good: bool, hedged: bool) -> str:
        _, noun = self.noun(self.domain.aspects)
        noun = noun.rstrip("+")
        if self.chance(0.25):
            verb = self.pick(_BAD_BASE if good else _GOOD_BASE)
            return f"i {self.rng.choice(('did not', 'did not', 'could not'))} {verb} the {noun}"
        verb = self.pick(_GOOD_VERB if good else _BAD_VERB)
        return f"i {self.rng.choice(('', '', 'really ', 'rather ', 'quite '))}{verb} the {noun}"

    def of_effect(self, good: bool, hedged: bool) -> str:
        _, noun = self.noun(self.domain.aspects)
        noun = noun.rstrip("+")
        whole = self.rng.choice(("it", "it", f"the {self.thing}"))
        if self.chance(0.33):
            verb = self.pick(_RUIN if good else _SAVE)
            return f"{self.rng.choice(('the', 'even the'))} {noun} could not {verb} {whole}"
        return f"the {noun} {self.pick(_SAVED if good else _RUINED)} {whole}"

    def clause(self, good: bool, *, hedged: bool = False) -> str:
        kinds = (self.of_aspect, self.of_turning, self.of_thing, self.of_feeling, self.of_effect)
        kind = self.rng.choices(kinds, (43, 13, 20, 14, 10))[0]
        return kind(good, hedged)

    def verdict(self, good: bool) -> str:
        return self.pick(_GOOD_VERDICT if good else _BAD_VERDICT)

    def plain(self, good: bool) -> str:
        """One or two clauses of one polarity."""
        first, second = self.clause(good), self.clause(good)
        if self.chance(0.22):
            return f"{self.pick(_FRANKLY)}, {first}"
        if self.chance(0.3):
            return f"{first}. {self.verdict(good)}"
        return f"{first}{self.rng.choice((' and ', ' and ', '. ', ', and also '))}{second}"

    def contrast(self, good: bool) -> str:
        """A concession of the other polarity and then what decides."""
        lesser, decisive = self.clause(not good, hedged=True), self.clause(good)
        form = self.rng.randrange(7)
        if form < 3:
            return f"{lesser}, {self.rng.choice(('but', 'but', 'yet'))} {decisive}"
        if form == 3:
            return f"{self.rng.choice(('although', 'even though', 'while'))} {lesser}, {decisive}"
        if form == 4:
            return f"{decisive}, {self.rng.choice(('although', 'even though'))} {lesser}"
        if form == 5:
            return f"{lesser}. still, {decisive}"
        return f"{lesser}. {self.rng.choice(('however', 'in the end', 'nevertheless'))}, {decisive}"

    def mixed(self, good: bool) -> str:
        """Two clauses of any polarity, and a verdict that decides."""
        first, second = self.chance(0.5), self.chance(0.5)
        link = "and" if first == second else "but"
        told = f"{self.clause(first)} {link} {self.clause(second)}"
        return f"{told}. {self.rng.choice(('', '', 'still, ', self.pick(_FRANKLY) + ', '))}{self.verdict(good)}"

    def compared(self, good: bool) -> str:
        """What it was against what was expected of it."""
        wish = self.rng.choice(("i hoped", "i wished", "they promised", "the adverts promised", "we were told"))
        fear = self.rng.choice(("i feared", "i expected", "people say", "the ratings suggest", "we were told"))
        if self.chance(0.6):
            degree = self.rng.choice(("not as {} as", "not nearly as {} as", "less {} than"))
            told = f"{degree.format(self.adjective(not good))} {fear if good else wish}"
        else:
            degree = self.rng.choice(("just as {} as", "even more {} than", "every bit as {} as"))
            told = f"{degree.format(self.adjective(good))} {wish if good else fear}"
        told = f"the {self.thing} was {told}"
        return told if self.chance(0.4) else f"{told}, and {self.clause(good)}"

    def expected(self, good: bool) -> str:
        """A hope or a fear, and what came of it."""
        hope = self.chance(0.5)
        thing = _with_article(f"{self.adjective(hope)} {self.thing}")
        hopes = ("i hoped for", "i looked forward to", "they promised us")
        said = self.rng.choice(hopes if hope else ("i feared", "i expected", "we were warned of"))
        form = self.rng.randrange(4)
        if form == 0:
            came = ("that is what i got", "i was right") if hope == good else ("i was wrong", "got the opposite")
            return f"{said} {thing}, and {self.rng.choice(came)}"
        if form == 1:
            return f"{said} {thing} and got {_with_article(self.adjective(good))} one"
        wanted = "i was ready to hate" if good else "i wanted to love"
        if form == 2:
            return f"{wanted} this {self.thing}, but {self.clause(good)}"
        return f"{wanted} this {self.thing}, but it was {self.degree(good)}{self.adjective(good)}"

    def disputed(self, good: bool) -> str:
        """What other people think, and what the writer thinks."""
        theirs, who = self.chance(0.4) == good, self.pick(_PEOPLE)
        form = self.rng.randrange(3)
        if form == 0:
            mine = ("and i agree", "and so did i") if theirs == good else ("but i disagree", "but i did not")
            return f"{who} found this {self.thing} {self.degree(theirs)}{self.adjective(theirs)}, {self.rng.choice(mine)}"
        link = "and" if theirs == good else "but"
        if form == 1:
            verb = self.pick(_GOOD_VERB if theirs else _BAD_VERB)
            return f"{who} {verb} the {self.thing}, {link} {self.clause(good)}"
        return f"{who} called it {self.adjective(theirs)}, {link} i found it {self.degree(good)}{self.adjective(good)}"

    def changed(self, good: bool) -> str:
        """How it began and how it ended."""
        before, after = self.adjective(not good), self.adjective(good)
        form = self.rng.randrange(3)
        if form == 0:
            return f"the {self.thing} started {self.degree(good)}{before} and ended {self.degree(good)}{after}"
        if form == 1:
            return f"this {self.thing} used to be {before}, now it is {self.degree(good)}{after}"
        return f"at first it seemed {self.degree(not good)}{before}, then it became {self.degree(good)}{after}"

    def ranked(self, good: bool) -> str:
        """The thing among others of its kind."""
        better = self.chance(0.5)
        word = self.rng.choice(("better", "finer", "nicer") if better else ("worse", "poorer", "duller"))
        if better == good:
            told = f"i have never {self.rng.choice(('known', 'had', 'found', 'seen'))} a {word} {self.thing}"
        else:
            told = f"there are {self.rng.choice(('', 'many ', 'certainly '))}{word} choices than this {self.thing}"
        return f"{told}. {self.clause(good) if self.chance(0.6) else self.verdict(good)}"

    def review(self, good: bool) -> str:
        """Return a whole review that adds up to `good`."""
        forms: tuple[Callable[[bool], str], ...] = (
            self.plain, self.contrast, self.mixed, self.compared,
            self.expected, self.disputed, self.changed, self.ranked,
        )  # fmt: skip
        text = self.rng.choices(forms, (60, 13, 5, 5, 6, 5, 3, 3))[0](good)
        if len(text.split()) < 15 and self.chance(0.6):
            told = f"{self.rng.choice(('we', 'i'))} {self.pick(self.domain.used)} this {self.thing}"
            why = self.pick(_WHEN) if self.chance(0.7) else f"because {self.pick(_WHY)}"
            text = f"{told} {why}. {text}"
        return text + self.rng.choice(".....!")


def reviews(seed: int, rows: int) -> list[dict[str, str]]:
    """Return `rows` different reviews, each `{"text": ..., "label": "positive" | "negative"}`.

    The result is a function of the arguments alone, and fewer rows of a seed are the beginning of more rows of it.
    """
    rng = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < rows:
        good = rng.random() < 0.5
        text = _Author(rng).review(good)
        if 7 <= len(text.split()) <= 26:
            found.setdefault(text, "positive" if good else "negative")
    return [{"text": text, "label": label} for text, label in found.items()]


def corpus() -> dict[str, list[dict[str, str]]]:
    """Return the rows of the demo corpus by split; the splits share no text."""
    rows = reviews(SEED, TRAIN_ROWS + VALIDATION_ROWS)
    return {"train": rows[:TRAIN_ROWS], "validation": rows[TRAIN_ROWS:]}
