"""Properties of settings: one pass of expansion, all missing references, the last layer wins."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from famulus.config.loading.merge import merge, nested, resolve
from famulus.config.loading.references import expand
from famulus.config.loading.sources import Setting, from_file
from famulus.spelling import plain

texts = st.text(
    st.sampled_from("${}:-?aB_\n ") | st.characters(exclude_categories=["Cs"]), max_size=30
)
variables = st.from_regex(r"[A-Z_][A-Z0-9_]{0,5}", fullmatch=True)
names = st.sampled_from(["A", "B", "C"])
places = st.tuples(names, names)
layers = st.lists(st.dictionaries(places, texts, max_size=5), max_size=5)


def no_file(path: str) -> str:
    """Raise FileNotFoundError."""
    raise FileNotFoundError(2, "no such file", path)


@given(text=texts)
def test_what_is_escaped_comes_out_as_it_was(text: str) -> None:
    """Any text can be escaped."""
    expanded = expand(text.replace("${", "$${"), {}, no_file)
    assert (expanded.text, expanded.problems) == (text, ())


@given(value=texts, before=texts.filter(lambda text: "$" not in text), name=variables)
def test_what_was_put_in_is_not_looked_at_again(value: str, before: str, name: str) -> None:
    """Values of variables, defaults and files are used literally."""
    assert (
        expand(f"{before}${{{name}}}{before}", {name: value}, no_file).text
        == before + value + before
    )
    # A value that ends in CR would form one line end with a LF behind it.
    end = "\r\n" if value.endswith("\r") else "\n"
    assert expand(f"${{file:{name}}}", {}, lambda _: f"{value}{end}").text == value
    default = value.replace("}", "")
    assert expand(f"${{{name}:-{default}}}", {}, no_file).text == default
    assert expand(f"${{{name}:-{default}}}", {name: "x"}, no_file).text == "x"


@given(needed=st.lists(variables, min_size=1, max_size=6), there=st.sets(variables))
def test_all_that_is_missing_is_found(needed: list[str], there: set[str]) -> None:
    """The problems are in the order of the text."""
    expanded = expand(
        " ".join(f"${{{name}}}" for name in needed), dict.fromkeys(there, "x"), no_file
    )
    assert list(expanded.problems) == [name for name in needed if name not in there]


@given(text=texts)
def test_no_text_is_a_crash(text: str) -> None:
    """Every text gives a value or a problem."""
    expand(text, {}, no_file)


@given(said=layers)
def test_the_last_layer_that_says_something_wins(said: list[dict[tuple[str, str], str]]) -> None:
    """The setting has that layer as its origin."""
    settings = [
        [
            Setting(tuple(map(plain, place)), value, ".".join(place), str(number))
            for place, value in layer.items()
        ]
        for number, layer in enumerate(said)
    ]
    tree, holds = nested(resolve(merge(settings), {})), merge(settings)
    every = {place for layer in said for place in layer}
    for section, name in every:
        number = max(number for number, layer in enumerate(said) if (section, name) in layer)
        assert tree[plain(section)][plain(name)] == said[number][section, name]
        assert holds[plain(section), plain(name)].origin == str(number)
    assert sum(map(len, tree.values())) == len(every)


@given(
    said=st.dictionaries(
        st.from_regex(r"[a-z]{1,8}", fullmatch=True), texts | st.lists(texts), max_size=5
    )
)
def test_comments_and_last_commas_change_nothing(said: dict[str, str | list[str]]) -> None:
    """Strings that look like comments stay strings."""
    text = json.dumps(said, indent=1, ensure_ascii=False).replace(
        "\n", ' // a " comment,}\n/* and " another } */'
    )
    with TemporaryDirectory() as folder:
        file = Path(folder, "appsettings.json")
        file.write_text(
            f"{text[: text.rindex('}')]}{',' if said else ''} }}" if said else text, "utf-8"
        )
        assert {setting.name: setting.value for setting in from_file(file)} == said
