"""Vocabularies of the synthetic tasks: fixed sequences of different strings, none of which contains another.

A task draws from the start of a sequence, the further the longer its context is: so the same strings recur from sample
to sample, and their tokens are soon all known. What a sample asks (which key has which value) is drawn anew each time.
"""

from __future__ import annotations

import random
import string
import uuid
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TypeVar

T = TypeVar("T")

SIZE = 1 << 16  # of a vocabulary
AT_LEAST = 4096  # entries that even a short context draws from
TOKENS_PER_ENTRY = 8  # every use of an entry needs more: words around it, or several mentions

ADJECTIVES = """
    agile ample angular azure balanced blazing bold breezy broad bubbly busy calm candid casual cautious cheerful
    chilly choppy civil classic clean clear cloudy coastal cobalt cold colossal compact content cool copper cosmic
    cosy creamy crimson crisp curly dainty daring dashing decent deep deft delicate distant dizzy dreamy dry dusky
    dynamic early earnest earthy eastern easy elastic electric elegant elfin eloquent emerald eminent endless
    enormous exact exotic famous fancy fearless festive fiery fine flat floral fluent fluffy fluid formal fragrant
    frank free friendly frosty fuzzy genuine giant global glossy graceful grand grateful gritty handy happy hardy
    hasty hazy hearty hefty helpful honest humble humid ideal indigo inland inner jagged jaunty jovial joyful juicy
    jumbo keen knotty large lavish lazy leafy light limber limpid linear lively local lofty lone loud loyal lucid
    lunar magic major marine mature meek mellow merry mighty mild misty modern moist muddy mute mystic narrow neat
    nimble noble noisy northern obedient oblong odd olive ornate oval partial patient peaceful placid playful plucky
    polar polite precise prickly prime proud prudent pure quaint quick quiet radiant ready regal remote rigid ripe
    robust round royal rugged serene shady sharp shiny short silent silver simple skilful sleek sleepy slender slim
    smart smooth soft solar sonic southern spare sparkling speedy spicy square stable stately steady sticky stoic
    stony stout strict subtle sunny super supple sweet swift tall tender thick thin thrifty tidy timid topaz
    tranquil tropical trusty twin urban useful valiant vast violet vital vivid vocal warm weary western wide wild
    windy wise witty worthy yellow young zany zesty
""".split()  # none ends with another
NOUNS = """
    bark barn bean bear beet bell belt bike bird boat bolt bone book boot bulb bull bush calf camp cane cape card
    cart cave chef clam club coal coat coin comb cook cord cork corn crab crib crow cube curb dawn deck desk dice
    dish dock doll dome door dove drum duck dune dusk dust echo edge face farm fawn fern film fire fish flag flax
    foal foam foil food foot fork fort frog fuel gate gift goat gold golf gown gull hail hall hare harp hawk heel
    herb herd hill hive hoof hook horn hose hour iris iron isle jade jeep judo kelp king kite kiwi knee knot lace
    lake lamb lamp lane lark lava lawn leaf leek lens limb lime line lion loaf lock loft loom luck lute lynx mail
    malt mane mask mast maze meal mesh mill mint mist moat mole moon moss moth musk nail neck nest news node noon
    nose note oboe opal oven pail palm park path peak pear peel pier pike pine pipe plum poem pond pool port puma
    quiz raft rail ramp reed reef rice ring road rock roof room root rope rose rush rust sail salt sand seal seat
    seed ship shoe silk sink snow soap sock sofa soil soup star stem step stew suit surf swan tape tarp taxi teak
    tent tide tile toad tomb tool town tram tray tree tuba tuna tusk twig vase veil vine vote wand wasp wave well
    whey wick wind wine wing wire wood wool worm yard yarn yoke zinc zone
""".split()  # all of one length


@cache
def names() -> tuple[str, ...]:
    """Pairs such as "curious-lynx"."""
    return _shuffled([f"{adjective}-{noun}" for adjective in ADJECTIVES for noun in NOUNS])


@cache
def compounds() -> tuple[str, ...]:
    """Single words of two nouns, such as "lampmoss"."""
    return _shuffled([first + second for first in NOUNS for second in NOUNS])


@cache
def numbers() -> tuple[str, ...]:
    """Numbers of seven digits."""
    return tuple(map(str, random.Random("numbers").sample(range(10**6, 10**7), SIZE)))


@cache
def uuids(role: str) -> tuple[str, ...]:
    """Random UUIDs (version 4), others for each role."""
    rng = random.Random(f"uuids/{role}")
    return tuple(str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(SIZE))


@cache
def codes(letters: int, alphabet: str = string.ascii_uppercase) -> tuple[str, ...]:
    """Words of so many random letters."""
    n = len(alphabet)
    numbers = random.Random(f"codes/{letters}/{alphabet}").sample(range(n**letters), min(SIZE, n**letters))
    return tuple("".join(alphabet[number // n**place % n] for place in range(letters)) for number in numbers)


def reach(vocabulary: tuple[str, ...], n_tokens: int) -> int:
    """How many entries contexts of ``n_tokens`` draw from."""
    return min(len(vocabulary), max(AT_LEAST, n_tokens // TOKENS_PER_ENTRY))


def draw(vocabulary: tuple[str, ...], n_tokens: int, rng: random.Random) -> Iterator[str]:
    """Different entries in random order, drawn when they are needed."""
    return in_random_order(vocabulary[: reach(vocabulary, n_tokens)], rng)


def in_random_order(items: Iterable[T], rng: random.Random) -> Iterator[T]:
    """The items, each once; only as much is shuffled as is taken."""
    left = list(items)
    while left:
        i = int(rng.random() * len(left))
        left[i], left[-1] = left[-1], left[i]
        yield left.pop()


def _shuffled(entries: list[str]) -> tuple[str, ...]:
    random.Random(0).shuffle(entries)
    return tuple(entries)
