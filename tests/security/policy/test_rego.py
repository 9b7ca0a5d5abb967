"""The evaluator gives OPA's results, or refuses to load."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter

import pytest
import yaml

from madang.errors import InvalidInputError, PolicyError
from madang.security.policy.rego import UNDEFINED, compile_modules, to_json
from madang.security.policy.rego.builtins import ARITY, FUNCTIONS


def asked(text, rule, input=UNDEFINED, data=None):
    found = compile_modules({"t.rego": f"package t\n\n{text}\n"}, data).ask(("t", rule), input)
    return found if found is UNDEFINED else to_json(found)


# -- OPA's own cases -------------------------------------------------------------------------------

# YAML 1.1, which Python's reader speaks, takes the key `on` of this case for a boolean.
_READ_OTHERWISE = {"a local bound to a string in a data reference"}


def cases(folder):
    for file in sorted(folder.rglob("*.yaml")):
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        for case in (yaml.load(file.read_text(), loader) or {}).get("cases", []):
            query = re.fullmatch(r"data\.([\w.]+) = (\w+)", case["query"])
            if query and "modules" in case and "input_term" not in case:
                yield case, tuple(query[1].split(".")), query[2]


def outcome(case, path, variable):
    """`same`, `refused` when loaded, `error` (which denies), or what is wrong."""
    wants_error = bool(case.get("want_error_code") or case.get("want_error"))
    files = {f"{index}.rego": text for index, text in enumerate(case["modules"])}
    try:
        program = compile_modules(files, case.get("data") or {})
        found = program.ask(path, case.get("input", UNDEFINED))
    except InvalidInputError:
        return "refused"
    except PolicyError:
        return "error"
    if path not in program.groups:
        return "refused"  # a whole package
    if wants_error:
        return f"{found!r} where OPA has an error"
    got = [] if found is UNDEFINED else [{variable: to_json(found)}]
    want = case.get("want_result") or []
    if case.get("sort_bindings"):
        got, want = (
            [{variable: sorted(row[variable], key=json.dumps)} for row in rows]
            for rows in (got, want)
        )
    if json.dumps(got, sort_keys=True) == json.dumps(want, sort_keys=True):
        return "same"
    return f"{got} where OPA has {want}"


def test_no_case_of_opas_own_suite_comes_out_otherwise(opa_cases):
    counts, wrong = Counter(), []
    for case, path, variable in cases(opa_cases):
        found = outcome(case, path, variable)
        if found in ("same", "refused", "error"):
            counts[found] += 1
        elif case["note"] not in _READ_OTHERWISE:
            wrong.append((case["note"], found))
    assert not wrong
    assert counts["same"] > 500, counts  # a parser that refuses everything would be right too
    assert sum(counts.values()) > 2000, counts


# -- decision by decision --------------------------------------------------------------------------


NUMBERS = ["0", "1", "-7", "2.5", "-0.25", "1000000", "3"]
VALUES = [*NUMBERS, '"a"', '"Ab c"', '""', "true", "null", "[]", "[1, 2, 2]", '{"a": 1}', "{1, 2}",
          "set()", '["b", "a"]', '{"b": [1], "c": {}}', "{{1}, {2}}", "[[1], [0]]", '{"a", "b"}']  # fmt: skip


def test_builtins_give_what_opa_gives(opa_binary, tmp_path):
    """Every builtin with every choice of values: the same value, or an error in both."""
    expressions = []
    for name in sorted(FUNCTIONS):
        if name.startswith("internal."):
            continue
        for count in ARITY[name]:
            choices = [()]
            values = VALUES if count < 3 else VALUES[::3]
            for _ in range(count):
                choices = [(*choice, value) for choice in choices for value in values]
            expressions += [(name, choice) for choice in choices[:: 1 if count < 2 else 7]]
    lines = ["package t\n", "import data.values.v\n"]
    for number, (name, values) in enumerate(expressions):
        args = ", ".join(f"v[{VALUES.index(value)}]" for value in values)
        lines.append(f"r{number} := {name}({args})\n")
    body = "\n".join(lines)
    # Of a comprehension's members the compiler knows no types: OPA decides at run time, as we do.
    document = f"package values\n\nv := [x | some x in [{', '.join(VALUES)}]]\n"
    theirs = _evaluated(opa_binary, tmp_path, body, document)
    program = compile_modules({"t.rego": body, "values.rego": document})
    wrong = []
    for number, (name, values) in enumerate(expressions):
        try:
            found = program.ask(("t", f"r{number}"), None)
            mine = "undefined" if found is UNDEFINED else to_json(found)
        except PolicyError:
            continue  # an error denies, whatever OPA makes of it
        other = theirs.get(f"r{number}", "undefined")
        if json.dumps(mine, sort_keys=True) != json.dumps(other, sort_keys=True):
            wrong.append((name, values, mine, other))
    assert not wrong, (Counter(name for name, *_ in wrong), wrong[:40])


def _evaluated(binary, folder, body, document):
    (folder / "t.rego").write_text(body)
    (folder / "values.rego").write_text(document)
    command = [binary, "eval", "--format=json", "--data", folder / "t.rego", "--data",
               folder / "values.rego", "data.t"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    answer = json.loads(done.stdout)
    assert "result" in answer, done.stdout[:2000]
    return answer["result"][0]["expressions"][0]["value"]


# -- what must be refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p if x > 1", "var x is unsafe|unsafe.* x"),
        ("p if not input.xs[i]", "unsafe.* i"),
        ("p contains x if true", "x is unsafe"),
        ("p := x if {\n\ty := 1\n}", "x is unsafe"),
        ("p if {\n\tx := 1\n\tx := 2\n}", "var x assigned above"),
        ("p if {\n\ty := x\n\tx := 1\n}", "var x referenced above"),
        ("p if input := 1", "input can't be declared"),
        ("p if q\n\nq if p", "recursive"),
        ("p := data.t", "whole package"),
        ("p.q := 1\n\np := 2", "is a rule and the package of another"),
        ("p := 1\n\np contains 2", "is a set rule here and a complete rule before"),
        ("default p := 1\n\ndefault p := 2", "two defaults"),
        ("p := count(1, 2)", "count takes 1 arguments, found 2"),
        ("p := regex.match(`a`, `b`)", "the builtin regex.match can't be used"),
        ("p := nothing.here(1)", "the builtin nothing.here can't be used"),
        ("p := {1: 2}", "keys are strings"),
        ("p := 0.1234567890123456789", "more digits"),
        ('p := $"{input.x}"', "can't read"),
        ("p[x][y] := 1 if {\n\tx := 1\n\ty := 1\n}", "one variable part"),
        ("f(x) := 1\n\np := f(1, 2)", "takes 1 arguments, found 2"),
        ("f(x) := x\n\np := f", "is a function: call it"),
        ("p if true with count as 1", "replaces input, data or a rule"),
        ("p {\n\ttrue\n}", "needs `if`"),
    ],
)
def test_what_is_refused_when_it_is_loaded(text, message):
    with pytest.raises(InvalidInputError, match=message):
        asked(text, "p")


def test_the_message_names_file_and_line():
    with pytest.raises(InvalidInputError, match=r"^t\.rego:5: "):
        asked("p if {\n\ttrue\n\tnope(1)\n}", "p")


# -- the parts of the language ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "input", "expected"),
    [
        ("p := 0.1 + 0.2", None, 0.3),
        ("p := [x | some x in {3, 1, 2}]", None, [1, 2, 3]),
        ("p := {k: v | some k, v in input}", {"b": 1, "a": [2]}, {"a": [2], "b": 1}),
        ("p contains x if some x in [1, 1.0, true]", None, [True, 1]),
        ("p if every x in input { x > 1 }", [2, 3], True),
        ("p if every x in input { x > 1 }", [2, 1], UNDEFINED),
        ("p if [1, x] = [1, 2]", None, True),
        ('p := x if [_, {"a": x}] = input', [0, {"a": 5}], 5),
        ("p := 1 if input.a else := 2 if input.b else := 3", {"b": 1}, 2),
        ("p := [i | input[i] == 2]", [1, 2, 2], [1, 2]),
        ("p if 1 == true", None, UNDEFINED),
        ("default p := 7\n\np := 1 if input.x", {}, 7),
        ("f(1) := 2\n\nf(x) := x if x > 1\n\np := [f(1), f(3)]", None, [2, 3]),
        ("q contains 1\n\np if 1 in q", None, True),
        ("p := x if {\n\tx := q with input as 3\n}\n\nq := input", 4, 3),
        ("p if {\n\tx + 1 == 3\n\tx = input\n}", 2, True),
    ],
)  # fmt: skip
def test_values(text, input, expected):
    assert asked(text, "p", input) == expected


def test_the_index_finds_the_rules_that_hold_and_keeps_conflicts():
    rules = [f'p := {n} if {{\n\tinput.a == "x{n % 3}"\n\tinput.b == "y{n}"\n}}' for n in range(30)]
    text = "\n\n".join([*rules, 'p := 99 if input.c == "z"'])
    assert asked(text, "p", {"a": "x1", "b": "y4"}) == 4
    assert asked(text, "p", {"a": "x2", "b": "y4"}) is UNDEFINED
    assert asked(text, "p", {"c": "z"}) == 99
    assert asked(text, "p", {"a": 1, "b": ["y4"]}) is UNDEFINED
    with pytest.raises(PolicyError, match="different values"):
        asked(text, "p", {"a": "x1", "b": "y4", "c": "z"})


def test_deep_nesting_is_an_error_and_no_crash():
    with pytest.raises(InvalidInputError, match="nested too deeply"):
        asked("p := " + "[" * 5000 + "]" * 5000, "p")
    deep = value = []
    for _ in range(100_000):
        value.append([])
        value = value[0]
    with pytest.raises(PolicyError, match="nested too deeply"):
        asked("p if input == [[1]]", "p", deep)
