"""XEP-0004 forms, by wokkel: what commands show, and what comes back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from impfed.core.errors import ImpfedError
from impfed.transport import wokkel_shim  # noqa: F401  (before wokkel)
from impfed.transport.queries import to_domish

from wokkel import data_form  # isort: skip

NS_DATA = "jabber:x:data"


class BadForm(ImpfedError):
    """What came back is no form."""


def text(name: str, label: str, value: str = "", *, required: bool = True, hint: str = "") -> Any:
    """Return a field for one line of text."""
    values = [value] if value else None
    return data_form.Field(
        "text-single", name, label=label, values=values, required=required, desc=hint or None
    )


def choice(name: str, label: str, options: Mapping[str, str], value: str = "") -> Any:
    """Return a field for one of several, with a value that is chosen already."""
    return data_form.Field(
        "list-single",
        name,
        label=label,
        value=value or next(iter(options), None),
        options=[data_form.Option(key, words) for key, words in options.items()],
        required=True,
    )


def several(name: str, label: str, options: Mapping[str, str]) -> Any:
    """Return a field for any number of several."""
    return data_form.Field(
        "list-multi",
        name,
        label=label,
        options=[data_form.Option(key, words) for key, words in options.items()],
    )


def note(words: str) -> Any:
    """Return a line that only says something."""
    return data_form.Field("fixed", value=words)


def lines(name: str, label: str, values: Iterable[str]) -> Any:
    """Return several lines to be read."""
    return data_form.Field("text-multi", name, label=label, values=list(values))


def form(title: str, instructions: str, fields: Sequence[Any]) -> str:
    """Return a form to be filled in, serialised."""
    return _xml("form", title, instructions, fields)


def result(title: str, fields: Sequence[Any]) -> str:
    """Return a form that only shows something, serialised."""
    return _xml("result", title, "", fields)


def _xml(kind: str, title: str, instructions: str, fields: Sequence[Any]) -> str:
    made = data_form.Form(kind, title, [instructions] if instructions else None, fields=fields)
    element = made.toElement()
    # A result has labels, too, or nobody knows what its lines are; wokkel leaves them out.
    shown = [child for child in element.elements() if child.name == "field"]
    for child, field in zip(shown, made.fieldList, strict=True):
        if field.label:
            child["label"] = field.label
    xml: str = element.toXml()
    return xml


def submitted(command: Element) -> dict[str, list[str]]:
    """Return the values of the form inside a command, by field.

    :raises BadForm: when there is a form that cannot be read, or one that is not submitted.
    """
    element = command.find(f"{{{NS_DATA}}}x")
    if element is None:
        return {}
    if element.get("type") != "submit":
        raise BadForm(f"a form of type {element.get('type')}")
    try:
        read = data_form.Form.fromElement(to_domish(element))
    except data_form.Error as error:
        raise BadForm(str(error)) from None
    return {name: [str(value) for value in field.values] for name, field in read.fields.items()}
