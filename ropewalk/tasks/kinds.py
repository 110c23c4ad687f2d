"""A small lexicon of things and what they are, written for this package: things are of a sort, and sorts of a kind.

Chosen are words of one common sense; none occurs twice, none in the text that tasks hide their facts in, and no thing
is spelled with what it is (blackbird).
"""

from __future__ import annotations

from functools import cache

LEXICON = {
    "animal": {
        "bird": "sparrow finch nightingale thrush wren eagle falcon buzzard osprey stork flamingo goose swan",
        "mammal": "squirrel hamster beaver lion tiger leopard cheetah deer moose giraffe antelope zebra whale dolphin",
        "fish": "salmon trout halibut flounder herring mackerel sardine",
        "reptile": "iguana gecko chameleon cobra viper tortoise crocodile alligator",
        "insect": "wasp hornet beetle grasshopper butterfly mosquito",
    },
    "plant": {
        "conifer": "spruce larch cedar juniper cypress",
        "flower": "tulip daffodil hyacinth snowdrop daisy marigold dahlia petunia begonia",
        "herb": "parsley oregano thyme rosemary coriander",
    },
    "instrument": {
        "woodwind": "flute clarinet oboe bassoon saxophone piccolo",
        "brass": "trumpet trombone tuba bugle cornet",
        "drum": "timpani bongo tambourine",
    },
    "food": {
        "fruit": "lemon mango tangerine raspberry blueberry cranberry peach apricot nectarine plum",
        "vegetable": "carrot parsnip turnip radish beetroot cabbage cauliflower leek",
        "pastry": "croissant strudel eclair baklava doughnut",
    },
    "vehicle": {
        "boat": "canoe kayak gondola dinghy schooner catamaran yacht ferry trawler",
        "aircraft": "airliner helicopter glider airship biplane",
        "car": "limousine hatchback taxi sedan",
    },
    "clothing": {
        "headwear": "beret fedora sombrero bonnet beanie turban",
        "footwear": "sandal slipper moccasin loafer sneaker clog",
        "outerwear": "parka raincoat anorak cardigan overcoat blazer",
    },
    "furniture": {
        "seat": "armchair stool sofa pew settee",
        "bed": "hammock cradle bunk cot",
        "cabinet": "wardrobe cupboard sideboard dresser",
    },
}


@cache
def things() -> dict[str, tuple[str, str]]:
    """Every thing, with its sort and its kind."""
    return {
        thing: (sort, kind) for kind, sorts in LEXICON.items() for sort, some in sorts.items() for thing in some.split()
    }


def a(noun: str) -> str:
    """The noun behind its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
