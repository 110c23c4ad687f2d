"""Words that tasks make names of: nobody and no town is meant, even where a name exists by chance."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

FIRST = tuple(
    "Ada Alma Amos Anton Arlo Astrid Basil Beata Bruno Carla Cedric Clara Cyrus Dalia Dario Della Edgar "
    "Edith Elias Elsa Emil Enid Ezra Felix Fiona Flora Gideon Greta Gustav Hanna Hector Hilda Hugo Ida "
    "Igor Ines Iris Ivan Jasper Jonas Judith Klara Konrad Lars Lena Leo Lydia Magnus Marta Milo Mina "
    "Nadia Nils Nora Olga Oscar Otto Paula Petra Rafael Rosa Rufus Selma Silas Stella Sven Thea Tobias "
    "Ursula Vera Viktor Wanda Wilma Xenia Yara Yuri Zelda Zora".split()
)
LAST = tuple(
    "Abernook Alderquist Ashvale Barrowin Bellmarsh Birkholt Brackenby Brindlow Calderin Carrowick Cobblestane "
    "Copperfen Corvander Dapplewood Darrowmere Dunmarrow Eastermoor Elderfay Embersley Fallowick Farthingay Fenwillow "
    "Flintermoor Foxmantle Garrowby Gildenfoss Glimmerly Gorsewick Graymantle Hallowmere Harrowgale Hawkinder "
    "Hazelquay Heatherin Hollowell Ironquist Ivermoor Jasperlin Juniperay Kestrelby Kilnwater Kindlewood Larkendale "
    "Lindenquist Lockmarsh Loomwick Mallowfen Marrowby Merrinfold Millstrand Mosswick Netherlin Nightingfold Oakhaver "
    "Oldmarrow Orrinvale Osterquay Pebbleham Pinemarrow Plumwater Quarrowin Quillfold Ravensley Redferrow Reedmantle "
    "Rivenhall Rookwater Rushmere Saltmarrow Silverquist Sorrelby Sparrowin Stonefay Swallowick Tallowmere Tanglewick "
    "Thistlery Thornquay Timberlow Underfell Vanderlow Velmarsh Wagtailor Waxwing Weatherin Wendlemoor Westerlin "
    "Whistledown Willowgay Windermarsh Wolverlin Wrenfold Yarrowick Yewmantle".split()
)
TOWN_HEADS = tuple(
    "Amber Apple Arrow Ash Badger Barley Beech Birch Bramble Bright Brook Cedar Chalk Clover Copper Crow Dawn Deer "
    "Elder Elm Falcon Fern Flint Fox Frost Glen Gold Grain Granite Green Hazel Heron Hollow Iron Ivy Juniper Lark "
    "Linden Maple Marble Meadow Mill Moss Oak Otter Pebble Pine Plum Quarry Raven Reed River Rowan Salt Silver Stone "
    "Swan Thistle Willow Wolf".split()
)
TOWN_TAILS = tuple(
    "bank bay borough bridge brook burn bury by cliff combe cote cross dale den field fold ford gate grove hall ham "
    "haven hill holm hurst ing land ley marsh mere minster moor mouth port shaw stead stow ton vale wick".split()
)
ADJECTIVES = tuple(
    "able agile ample ancient awake bashful bitter blunt bold brave brief bright brisk broad calm candid careful "
    "clean clever cloudy cold cosy crisp curious daring dense distant double eager early easy elder even exact faint "
    "famous fancy fast fierce final firm flat fluent formal fragile frank fresh frosty gentle giant glad grand grave "
    "handy happy hasty heavy hidden hollow honest humble idle jolly keen kind large late lazy level light little "
    "lively lone loud loyal lucky mellow merry mild modest narrow neat nimble noble odd patient plain polite proud "
    "quick quiet rapid rare ready rough round royal rustic sharp shy silent sleepy slim smooth sober solid steady "
    "stern stout strict swift tall tame tender thin tidy tiny tough vast vivid warm wary weary wide wild wise witty "
    "young".split()
)
COLOURS = tuple(
    "amber aqua azure beige black blue bronze brown cherry cobalt copper coral cream crimson cyan ebony emerald "
    "golden gray green indigo ivory jade khaki lemon lilac lime maroon mauve mint ochre olive orange peach pearl pink "
    "plum purple red rose ruby russet rust sable scarlet silver slate tan teal umber violet white yellow".split()
)
NOUNS = tuple(
    "acorn anchor anvil apron arrow atlas badge badger barrel basin basket beacon beaver bell bench blanket bottle "
    "branch bridge broom brush bucket button cabin cable camel candle canoe carpet carrot castle chain chair cherry "
    "chisel cider clock cloud clover coat comet compass cookie cottage cradle crane crow crown curtain desk dolphin "
    "donkey door dragon drum eagle engine falcon feather fence fern ferry fiddle flag flute forest fork fountain fox "
    "garden gate ginger glacier glove goose grape guitar hammer harbor harp hat hawk helmet heron hill honey horn "
    "horse island jacket jar kettle key kite ladder lagoon lamp lantern leaf lemon lever lily lizard locket lobster "
    "magnet mango mantle maple marble marsh meadow mirror mitten moose mountain mule napkin needle nest nutmeg oak "
    "oar ocean olive onion orchard otter oven owl oyster paddle panda panther parrot pebble pencil pepper piano "
    "pigeon pillow pirate planet plow pocket pony puffin pumpkin quill rabbit radish raven ribbon river robin rocket "
    "rope saddle salmon satchel saucer scarf seal shadow shovel sparrow spoon squid stable stove table teapot thimble "
    "thistle tiger torch tower trumpet tunnel turtle valley violin wagon walnut walrus whale wheel whistle willow "
    "window wolf wren zebra".split()
)
PATIENCE = 1000  # draws in a row that are all known already before the names count as used up


def person(rng: random.Random) -> str:
    """One of half a million full names."""
    return f"{rng.choice(FIRST)} {rng.choice(FIRST)} {rng.choice(LAST)}"


def town(rng: random.Random) -> str:
    """One of 2400 towns."""
    return rng.choice(TOWN_HEADS) + rng.choice(TOWN_TAILS)


def thing(rng: random.Random) -> str:
    """One of a million things, like "brisk-amber-otter"."""
    return f"{rng.choice(ADJECTIVES)}-{rng.choice(COLOURS)}-{rng.choice(NOUNS)}"


def distinct(draw: Callable[[], T]) -> Iterator[T]:
    """Draws without end, none twice.

    Raises:
        ValueError: if there is nothing new to draw.
    """
    seen: set[T] = set()
    while True:
        new = next((one for _ in range(PATIENCE) if (one := draw()) not in seen), None)
        if new is None:
            raise ValueError(f"more than {len(seen)} different names were asked for")
        seen.add(new)
        yield new
