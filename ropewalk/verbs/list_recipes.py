"""The recipes of training, as they are listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ropewalk.common.results import Result, columns
from ropewalk.training.recipe import Recipe
from ropewalk.training.recipes.recipe_entries import RECIPES, RecipeEntry
from ropewalk.verbs.request import Request, verb

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class ListRecipesRequest(Request):
    """Nothing to choose."""


@dataclass(frozen=True, repr=False)
class Recipes(Result, Sequence[RecipeEntry]):
    """The recipes, a sequence of their entries.

    Attributes:
        recipes: in the order of the list.
    """

    recipes: tuple[RecipeEntry, ...]

    def __len__(self) -> int:
        return len(self.recipes)

    def __getitem__(self, index: Any) -> Any:
        return self.recipes[index]

    def show(self, console: Console) -> None:
        table = columns("recipe", ">steps", "what it does", "?rope", "?samples", "?trains", "?paper")
        for entry in self.recipes:
            one = entry.load()
            more = (_rope(one), one.positions, _trains(one), entry.paper)
            table.add_row(entry.id, f"{one.steps:,}", entry.summary, *more)
        console.print(table)
        console.print("\nEvery field of a recipe is an option: ropewalk train pose MODEL DATA --to 32k --steps 200")


def _rope(recipe: Recipe) -> str:
    return recipe.method.partition("(")[0]


def _trains(recipe: Recipe) -> str:
    if recipe.trainable == "all":
        return "all weights"
    return " + ".join([f"{'qlora' if recipe.quantise != 'none' else 'lora'} {recipe.rank}", *recipe.also])


@verb("recipes")
def list_recipes(request: ListRecipesRequest) -> Recipes:
    """List the recipes that 'ropewalk train' takes: papers' values on every axis."""
    return Recipes(RECIPES)
