"""YAML as people mean it: only mappings, lists, text, numbers, true, false and null, each written out once.

Beside YAML 1.2's core this leaves out what can surprise or harm: aliases (a few lines can stand for gigabytes), tags,
dates, numbers to the base 8 or 60, a key given twice, nesting without end.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

DEEPEST = 12  # a recipe's own keys need 4


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (as its parent)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise self._fault(event, f"an alias (*{event.anchor}); write the value out")
        if getattr(event, "tag", None) not in (None, "!"):
            raise self._fault(event, f"a tag ({event.tag}); leave it out")
        self.depth += 1
        if self.depth > DEEPEST:
            raise self._fault(event, f"more than {DEEPEST} levels of nesting")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise self._fault(key, "a key that is not text")
            if key.value in seen:
                raise self._fault(key, f"the key {key.value} twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    @staticmethod
    def _fault(where: Any, what: str) -> yaml.MarkedYAMLError:
        return yaml.constructor.ConstructorError(None, None, what, where.start_mark)


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"(?:[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"),
    list("-+.0123456789"),
)
# YAML 1.1's dates: text here, but other readers would not take it so.
_Loader.add_implicit_resolver("tag:yaml.org,2002:timestamp", re.compile(r"\d{4}-\d\d?-\d\d?(?:(?:[Tt]|[ \t]+)\d.*)?\Z"), list("0123456789"))


def _refuse_date(loader: _Loader, node: Any) -> Any:
    raise loader._fault(node, f"a date ({node.value}); put it in quotes")


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _refuse_date)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Raises ValueError, in one line, for anything but what is described above."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{place}{error.problem}") from error
    except yaml.reader.ReaderError as error:
        raise ValueError(f"the character {chr(error.character)!a} at {error.position}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:120]) from error
    except (ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"a value out of range ({' '.join(str(error).split())[:80]})") from error


class _Dumper(yaml.SafeDumper):
    """Quotes all that either of YAML's versions would take for something other than text."""


for _first, _resolvers in _Loader.yaml_implicit_resolvers.items():
    for _tag, _pattern in _resolvers:
        _Dumper.add_implicit_resolver(_tag, _pattern, [_first])


def write_yaml(value: Any) -> str:
    """YAML that `parse_yaml`, and any other reader, takes back as it was; keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
