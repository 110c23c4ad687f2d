"""The list of methods, and how they are spelt."""

import pkgutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ropewalk
from ropewalk import UserError
from ropewalk.common.naming import plain
from ropewalk.methods.catalogue import BY_NAME, CATALOGUE, entry, method, methods, split
from tests.matrix import VARIANTS


def test_ids_are_unique():
    assert len({entry.id for entry in CATALOGUE}) == len(CATALOGUE)
    spelled = {(plain(name), entry.id) for name, entry in BY_NAME.items()}
    assert len({name for name, _ in spelled}) == len(spelled), "two methods are called alike"


def test_no_public_name_is_a_submodule():  # importing the submodule would put it in the name's place
    assert not {module.name for module in pkgutil.iter_modules(ropewalk.__path__)} & set(ropewalk.__all__)


def test_reading_the_catalogue_imports_nothing_heavy():
    code = (
        "import sys, ropewalk.methods.catalogue; print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# Spellings


@pytest.mark.parametrize("spelling", VARIANTS)
def test_ids_read_back(spelling):
    made = method(spelling)
    assert method(made.id) == made and method(made.id).id == made.id


OPTIONS = [
    "yarn(beta_fast=16.0, beta_slow=2.0, attention_factor=1.5, truncate=False, ramp='paper')",
    "mr-rope(beta_fast=16.0, beta_slow=2.0, rise='uniform', attention_factor=1.5)",
    "ntk-aware(stretch=2.0)",
    "dynamic-ntk(form='hf', factor=4.0)",
    "ntk-by-parts(low=2.0, high=16.0)",
    "llama3(low=2.0, high=8.0)",
    "abf(base=500000.0)",
    "abf(rule='bound')",
    "entropy-abf(base=1000000.0)",
    "longrope(factors=(1.0, 2.5), attention_factor=1.1)",
    "giraffe(basis='power', k=0.5)",
    "giraffe(period=2048)",
    "dprope(bins=180, monotone=True)",
    "longembed-rope(ratio=4.0)",
    "clex(weights='a+b (1).safetensors', step=0.1)",
    "harpe(base_min=1000.0, base_max=1e+16)",
]


@pytest.mark.parametrize("spelling", OPTIONS)
def test_options_read_back(spelling):
    assert method(spelling).id == spelling


@pytest.mark.parametrize(
    "spelling, said",
    [
        ("yarn(beta_fast=nan)", "option beta_fast is nan, expected a finite number"),
        ("yarn(beta_fast=-inf)", "option beta_fast is -inf, expected a finite number"),
        ("yarn(beta_fast=1e999)", "option beta_fast is inf, expected a finite number"),
        ("yarn(attention_factor=NaN)", "option attention_factor is nan, expected a finite number"),
        ("self-extend(group=inf)", "option group is inf, expected a finite number"),
        ("clex(weights=nan)", "option weights is nan, expected a word"),
        ("yarn(ramp=nan)", "option ramp is nan, expected 'code' or 'paper'"),
        ("yarn(beta_fats=nan)", "no option 'beta_fats'; did you mean 'beta_fast'"),
    ],
)
def test_what_is_no_finite_number_is_refused_as_such(spelling, said):
    with pytest.raises(UserError) as refusal:
        method(spelling)
    assert said in refusal.value.message


@pytest.mark.parametrize(
    "loose, canonical",
    [
        ("yarn()", "yarn"),
        ("yarn(beta_fast=32)", "yarn"),
        (" yarn ( beta_fast = 16 ) ", "yarn(beta_fast=16.0)"),
        ("abf(base=500000)", "abf(base=500000.0)"),
        ("longrope(factors=[1, 2])", "longrope(factors=(1, 2))"),
        ("yarn + resonance", "resonance+yarn"),
    ],
)
def test_loose_spellings(loose, canonical):
    assert method(loose).id == canonical


@pytest.mark.parametrize(
    "spelling, message",
    [
        ("yarm", "unknown method 'yarm'; did you mean 'yarn'?"),
        ("dynamicntk2", "did you mean 'dynamic-ntk'?"),
        ("zzz", "unknown method 'zzz'"),
        ("yarn(beta_fats=16)", "yarn has no option 'beta_fats'; did you mean 'beta_fast'?"),
        ("pi(x=1)", "pi has no option 'x'"),
        ("yarn(beta_fast='x')", "yarn: option beta_fast is 'x', expected a number such as 32.0"),
        ("yarn(beta_fast=True)", "option beta_fast is True"),
        ("yarn(beta_fast=1e999)", "option beta_fast is inf"),
        ("yarn(truncate=1)", "option truncate is 1, expected true or false"),
        ("yarn(attention_factor='x')", "option attention_factor is 'x'"),
        ("yarn(ramp='papper')", "option ramp is 'papper', expected 'code' or 'paper'"),
        ("dprope(bins=3.5)", "option bins is 3.5, expected a whole number such as 360"),
        ("giraffe(period=2048.5)", "option period is 2048.5"),
        ("longrope(factors=3)", "option factors is 3, expected a list"),
        ("clex(weights=3)", "option weights is 3"),
        ("yarn(beta_fast=0.5)", "expected 0 < slow <= fast"),
        ("mr-rope(beta_fast=0.5)", "expected 0 < slow <= fast"),
        ("mr-rope(attention_factor=0)", "attention_factor is 0.0, expected a number above 0"),
        ("mr-rope(rise='steep')", "option rise is 'steep', expected 'progressive' or 'uniform'"),
        ("yarn(attention_factor=0)", "attention_factor is 0.0, expected a number above 0"),
        ("ntk-by-parts(low=40)", "low is 40.0, high is 32.0, expected 0 < low < high"),
        ("abf(base=1)", "base is 1.0, expected a number above 1"),
        ("entropy-abf(base=0.5)", "base is 0.5, expected a number above 1"),
        ("harpe(base_min=9e9, base_max=1e9)", "expected base_min <= base_max"),
        ("clex(step=0)", "step is 0.0, expected a number above 0"),
        ("yarn(beta_fast=x)", "option beta_fast is 'x', expected a number"),
        ("yarn pi", "unknown method 'yarn pi'; did you mean 'yarn'"),
        ("dprope(bins=0)", "bins is 0, expected a number above 0"),
        ("giraffe(period=0)", "period is 0, expected a number above 0"),
        ("longembed-rope(ratio=-1)", "ratio is -1.0, expected a number above 0"),
        ("ntk-aware(stretch=0)", "stretch is 0.0, expected a number above 0"),
    ],
)
def test_bad_values_are_named(spelling, message):
    with pytest.raises(UserError) as error:
        method(spelling)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "spelling",
    ["", "+", "yarn+", "yarn(", "yarn)", "yarn((", "(yarn)", "yarn(beta_fast=)", "yarn(16)", "yarn:16",
     "yarn(beta_fast=16)(beta_slow=2)", "yarn(beta_fast=16).x(beta_slow=2)", "yarn(beta_fast=8, beta_fast=16)",
     "yarn(beta_fast=__import__('os').getpid())", "resonance,yarn"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(spelling):
    with pytest.raises(UserError, match="cannot read"):
        method(spelling)


def test_unpacked_options_are_refused():
    with pytest.raises(UserError, match="has no option 'None'"):
        method("yarn(**{'beta_fast': 3.0})")


@given(st.text(st.sampled_from("yarnpi-+,()[]=0123456789.'\"*{}_ "), max_size=30))
def test_any_text_is_a_method_or_a_user_error(text):
    try:
        made = method(text)
    except UserError:
        return
    assert method(made.id) == made


def test_unknown_entries_point_to_the_list():
    with pytest.raises(UserError) as error:
        entry("yarm")
    assert error.value.mend == "ropewalk methods"


def test_lists_of_methods_drop_duplicates():
    found = methods("yarn, pi,yarn(beta_fast=32), resonance+yarn,, yarn+resonance")
    assert [m.id for m in found] == ["yarn", "pi", "resonance+yarn"]


@pytest.mark.parametrize("empty", ["", " , "])
def test_an_empty_list_is_refused(empty):
    with pytest.raises(UserError, match="no method named"):
        methods(empty)


def test_split_leaves_brackets_alone():
    assert split("a(x=1,y=[2,3]),b+c", ",") == ["a(x=1,y=[2,3])", "b+c"]


@pytest.mark.parametrize(("written", "spelling"), [
    ("YaRN", "yarn"), ("ntk_aware", "ntk-aware"), ("NTK-aware scaling(Stretch=2)", "ntk-aware(stretch=2.0)"),
    ("Position Interpolation", "pi"), ("LLaMA 3", "llama3"), ("DualChunk", "dca"), ("Self_Extend", "self-extend"),
    ("Resonance + YaRN(beta-fast=16, TRUNCATE=false)", "resonance+yarn(beta_fast=16.0, truncate=False)"),
    ("yarn(ramp=paper)", "yarn(ramp='paper')"), ("clex(Weights='a-b=c,Step=1')", "clex(weights='a-b=c,Step=1')"),
])  # fmt: skip
def test_methods_as_people_write_them(written, spelling):
    assert method(written).id == method(spelling).id == spelling


@pytest.mark.parametrize("one", CATALOGUE, ids=lambda one: one.id)
def test_each_method_answers_to_its_title_and_class(one):
    for name in (one.title.partition(" (")[0].upper(), one.where.partition(":")[2].lower(), one.id.replace("-", "_")):
        assert entry(name) is one
