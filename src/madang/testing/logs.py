"""What every logs engine must do."""

from __future__ import annotations

import threading

import pytest

from madang.errors import InvalidInputError
from madang.platform.logs import LogRecord


def record(message, time_us=1, level="INFO", **fields):
    return LogRecord(time_us, level, "test", message, fields)


def messages(found):
    return [each.message for each in found]


class LogsContract:
    """Needs the fixture `logs`: an empty engine."""

    def test_a_record_comes_back_as_it_was(self, logs):
        given = LogRecord(
            1_700_000_000_123_456,
            "WARNING",
            "app.train",
            'two\nlines, "quotes", 한국어 ✓ \0',
            {
                "run": "r1",
                "n": 3,
                "share": 0.25,
                "big": 2**63 - 1,
                "ok": True,
                "none": None,
                "": "",
            },
        )
        logs.append([given])
        assert logs.search() == [given]

    def test_nothing_is_found_in_nothing(self, logs):
        assert logs.search() == []
        logs.append([])
        assert logs.search("word") == []

    def test_a_search_is_right_after_every_append(self, logs):
        for number in range(20):
            logs.append([record(f"event {number}", number)])
            assert messages(logs.search(f"{number}")) == [f"event {number}"]
            assert len(logs.search("event")) == number + 1

    def test_newest_first_and_equal_times_in_reverse_order(self, logs):
        logs.append([record("b", 2), record("d", 5), record("a", 1)])
        logs.append([record("c1", 3), record("c2", 3)])
        assert messages(logs.search()) == ["d", "c2", "c1", "b", "a"]
        assert messages(logs.search(limit=2)) == ["d", "c2"]

    def test_all_words_must_stand_in_the_message(self, logs):
        logs.append([record("The model was Trained", 1), record("the data was read", 2)])
        assert messages(logs.search("TRAINED model")) == ["The model was Trained"]
        assert len(logs.search("the was")) == 2
        assert logs.search("trained data") == []
        assert logs.search("train") == []

    def test_a_phrase(self, logs):
        logs.append([record("disk is full", 1), record("full disk", 2)])
        assert messages(logs.search('"Disk is full"')) == ["disk is full"]
        assert messages(logs.search('"full disk"')) == ["full disk"]
        assert messages(logs.search('is "full"')) == ["disk is full"]

    def test_words_with_signs_and_other_scripts(self, logs):
        logs.append([record("run-42 failed: timeout=3.5s (école)", 1), record("모델 학습 완료", 2)])
        for text in ("run-42", "timeout=3.5s", "école", "ÉCOLE", "(failed)"):
            assert messages(logs.search(text)) == ["run-42 failed: timeout=3.5s (école)"], text
        assert messages(logs.search("학습")) == ["모델 학습 완료"]
        assert logs.search("ecole") == []

    def test_words_of_the_query_language_are_only_words(self, logs):
        logs.append([record("this AND that"), record("NOT here")])
        assert messages(logs.search("AND")) == ["this AND that"]
        assert messages(logs.search("NOT")) == ["NOT here"]
        assert logs.search("this OR here") == []
        assert logs.search("message:this") == []
        assert logs.search("th*") == []

    @pytest.mark.parametrize("text", ['"open', 'a" b', "...", "ok !!!", "a\0b", '""'])
    def test_a_text_without_meaning_is_refused(self, logs, text):
        logs.append([record("ok")])
        with pytest.raises(InvalidInputError, match="can't search for"):
            logs.search(text)

    def test_fields_must_have_these_values(self, logs):
        logs.append(
            [
                record("a", 1, run="r1", step="train", n=1),
                record("b", 2, run="r1", step="test", n="1"),
                record("c", 3, run="r10", ok=True),
                record("d", 4, none=None),
            ]
        )
        assert messages(logs.search(fields={"run": "r1"})) == ["b", "a"]
        assert messages(logs.search(fields={"run": "r1", "step": "train"})) == ["a"]
        assert messages(logs.search(fields={"n": 1})) == ["a"]
        assert messages(logs.search(fields={"n": 1.0})) == ["a"]
        assert messages(logs.search(fields={"n": "1"})) == ["b"]
        assert messages(logs.search(fields={"ok": True})) == ["c"]
        assert messages(logs.search(fields={"none": None})) == ["d"]
        assert logs.search(fields={"run": "r"}) == []
        assert messages(logs.search("b", fields={"run": "r1"})) == ["b"]
        assert logs.search("r10") == []

    def test_a_level_or_a_higher_one(self, logs):
        levels = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
        logs.append([record(level, time, level) for time, level in enumerate(levels)])
        for number, level in enumerate(levels):
            assert messages(logs.search(level=level)) == list(levels[number:][::-1])

    def test_a_range_of_time_is_half_open(self, logs):
        logs.append([record(str(time), time) for time in range(5)])
        assert messages(logs.search(since_us=1, until_us=3)) == ["2", "1"]
        assert messages(logs.search(since_us=0, until_us=1)) == ["0"]

    def test_what_is_unknown_is_refused(self, logs):
        with pytest.raises(InvalidInputError, match="DEBUG, INFO, WARNING, ERROR, CRITICAL"):
            logs.search(level="LOUD")
        with pytest.raises(InvalidInputError, match="DEBUG, INFO, WARNING, ERROR, CRITICAL"):
            logs.append([record("fine"), record("a", level="info")])
        for value in ([1], {"a": 1}, float("nan"), b"x"):
            with pytest.raises(InvalidInputError, match="'field'"):
                logs.append([record("fine"), record("a", field=value)])
            with pytest.raises(InvalidInputError, match="'field'"):
                logs.search(fields={"field": value})
        with pytest.raises(InvalidInputError, match="limit"):
            logs.search(limit=0)
        assert logs.search() == []

    def test_threads_keep_their_order(self, logs):
        def work(name):
            for number in range(50):
                logs.append([record(f"{number}", 1, thread=name)])

        threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            logs.search(limit=5)  # a reader at the same time
        for thread in threads:
            thread.join()
        for name in ("t0", "t1", "t2", "t3"):
            found = logs.search(fields={"thread": name})
            assert messages(found) == [str(number) for number in range(49, -1, -1)]

    def test_closing_is_safe_to_repeat(self, logs):
        logs.append([record("a")])
        logs.close()
        logs.close()

    def test_it_is_healthy(self, logs):
        assert logs.health().ok
        logs.append([record("a")])
        assert logs.health().ok
