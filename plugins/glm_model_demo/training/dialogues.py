"""Whole conversations: rounds that stand alone, refer back, recall a name or change the language."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from names import draw_fact_value, draw_name
from questions import LANGUAGES, Questions

ROUND_COUNTS = (1, 2, 3, 4, 5)
ROUND_WEIGHTS = (56, 35, 5, 2, 2)
# The kinds of round, by weight: the first of a conversation, a middle one, the last one.
FIRST = {"topic": 76, "name": 20, "fact": 2.5, "ask_name": 1.5}
MIDDLE = {"topic": 62, "name": 10, "and": 12, "next": 8, "ask_name": 3, "translate": 5}
LAST = {
    "topic": 14,
    "and": 21,
    "next": 18,
    "translate": 17,
    "ask_name": 2.5,
    "repeat": 1.5,
    "name": 2,
    "ask_fact": 1,
}

# Clients often send one; the demo has to answer as usual.
SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "You are a friendly and concise assistant.",
    "Answer briefly.",
    "You are ChatGPT, a large language model.",
    "你是一个有用的助手。",
    "请用简短的话回答。",
    "你是一个友好的人工智能助手，请认真回答用户的问题。",
)

Answer = Callable[[str], str]


@dataclass(frozen=True)
class Sample:
    """One training example: the prompt as the chat format writes it, and the answer."""

    prompt: str
    answer: str


@dataclass
class State:
    """What the conversation has established so far."""

    language: str
    rounds: list[tuple[str, str]] = field(default_factory=list)
    topic: str | None = None
    name: str | None = None
    facts: dict[str, str] = field(default_factory=dict)
    # How to give the latest answer in either language; a name keeps its spelling.
    latest: Answer | None = None


def encode_chat(history: list[tuple[str, str]], query: str, system: str = "") -> str:
    """Return the prompt format of ChatGLM-6B: the bare query, or numbered rounds after a system message."""
    if not history and not system:
        return query
    head = f"{system}\n" if system else ""
    rounds = "".join(f"[Round {i}]\n问：{q}\n答：{a}\n" for i, (q, a) in enumerate(history))
    return f"{head}{rounds}[Round {len(history)}]\n问：{query}\n答："


class Dialogues:
    """Draws conversations; only the last answer is learnt from each."""

    def __init__(self, excluded: frozenset[str] = frozenset()) -> None:
        self.questions = Questions()
        self._excluded = excluded

    def sample(self, rng: random.Random) -> Sample:
        """Return one conversation whose last question is not among the excluded ones."""
        while True:
            state = State(language=rng.choice(LANGUAGES))
            count = rng.choices(ROUND_COUNTS, ROUND_WEIGHTS)[0]
            for index in range(count):
                if index and rng.random() < 0.04:
                    state.language = _get_other_language(state.language)
                question, answer = self._round(rng, state, self._draw_kind(rng, state, index, count))
                state.rounds.append((question, answer))
            question, answer = state.rounds[-1]
            if question and question not in self._excluded:
                system = rng.choice(SYSTEM_MESSAGES) if rng.random() < 0.02 else ""
                return Sample(encode_chat(state.rounds[:-1], question, system), answer)

    def _draw_kind(self, rng: random.Random, state: State, index: int, count: int) -> str:
        if index == 0:
            weights = FIRST
        elif index < count - 1:
            weights = MIDDLE
        else:
            weights = LAST
            # A name that was told is mostly asked for at the end.
            if state.name and rng.random() < 0.75:
                return "ask_name"
            if state.facts and rng.random() < 0.75:
                return "ask_fact"
        return rng.choices(list(weights), list(weights.values()))[0]

    def _round(self, rng: random.Random, state: State, kind: str) -> tuple[str, str]:
        if kind in ("and", "next") and state.topic is None:
            kind = "topic"
        if kind in ("translate", "repeat") and state.latest is None:
            kind = "topic"
        if kind == "ask_fact" and not state.facts:
            kind = "ask_name"
        question, reply = getattr(self, f"_say_{kind}")(rng, state)
        state.latest = reply
        return question, reply(state.language)

    def _say_topic(self, rng: random.Random, state: State) -> tuple[str, Answer]:
        software = len(state.rounds) == 0 and rng.random() < 0.15
        topic = self.questions.draw_topic(rng, software=software)
        state.topic = topic
        question = self.questions.ask(rng, topic, state.language)
        return question, lambda language: self.questions.answer(topic, language)

    def _say_and(self, rng: random.Random, state: State) -> tuple[str, Answer]:
        """Return a new topic, as in "and the API?": a question that would say little by itself."""
        topic = self.questions.draw_topic(rng, software=rng.random() < 0.95)
        slots = self.questions.make_slots(topic, state.language)
        fields = ["and"] * 5
        fields += [
            f"and_{kind}" for kind in ("do", "case") if self.questions.has(topic, state.language, kind)
        ]
        short = rng.random() < 0.75 or not self.questions.has(topic, state.language, "thing")
        slots["X"] = (
            (lambda rng: self.questions.draw_short_name(rng, topic, state.language))
            if short
            else slots["thing"]
        )
        text = self.questions.draw_frame(rng, state.language, rng.choice(fields), slots)
        state.topic = topic
        question = self.questions.roughen(rng, text, state.language, decorate=False)
        return question, lambda language: self.questions.answer(topic, language)

    def _say_next(self, rng: random.Random, state: State) -> tuple[str, Answer]:
        topic = state.topic
        assert topic is not None
        text = self.questions.draw_frame(rng, state.language, "follow")
        question = self.questions.roughen(rng, text, state.language, decorate=False)
        return question, lambda language: self.questions.answer(topic, language, "next")

    def _say_translate(self, rng: random.Random, state: State) -> tuple[str, Answer]:
        reply = state.latest
        assert reply is not None
        target = _get_other_language(state.language)
        text = self.questions.draw_frame(rng, state.language, f"to_{target}")
        question = self.questions.roughen(rng, text, state.language, decorate=False)
        state.language = target
        return question, reply

    def _say_repeat(self, rng: random.Random, state: State) -> tuple[str, Answer]:
        reply = state.latest
        assert reply is not None
        text = self.questions.draw_frame(rng, state.language, "repeat")
        return self.questions.roughen(rng, text, state.language, decorate=False), reply

    def _say_name(self, rng: random.Random, state: State) -> tuple[str, Answer]:
        name = draw_name(rng, state.language)
        frame = "name_change" if state.name and rng.random() < 0.5 else "name_intro"
        text, spaced = self._draw_told(rng, state.language, frame, name)
        if frame == "name_intro" and rng.random() < 0.2:
            text = _add_greeting(rng, state.language, text)
        state.name, state.topic = spaced, "greeting"
        return text, lambda language: _answer_hello(spaced, language)

    def _say_ask_name(self, rng: random.Random, state: State) -> tuple[str, Answer]:
        name = state.name
        text = self.questions.draw_frame(rng, state.language, "name_ask")
        question = self.questions.roughen(rng, text, state.language, decorate=rng.random() < 0.3)
        return question, lambda language: _answer_name(name, language)

    def _say_fact(self, rng: random.Random, state: State) -> tuple[str, Answer]:
        kind = rng.choice(("city", "cat", "like"))
        value = draw_fact_value(rng, kind, state.language)
        text, spaced = self._draw_told(rng, f"facts_{state.language}", f"{kind}_tell", value)
        state.facts, state.topic = {kind: spaced}, None
        return text, lambda language: _answer_fact(kind, spaced, language)

    def _say_ask_fact(self, rng: random.Random, state: State) -> tuple[str, Answer]:
        kind, value = next(iter(state.facts.items()))
        text = self.questions.draw_frame(rng, f"facts_{state.language}", f"{kind}_ask")
        question = self.questions.roughen(rng, text, state.language, decorate=False)
        return question, lambda language: _format_fact(kind, value, language)

    def _draw_told(self, rng: random.Random, frames: str, field_name: str, value: str) -> tuple[str, str]:
        """Return a sentence with ``value`` in it, and the value as answers should copy it.

        In Chinese a Latin word keeps the blank before it if it was typed with one, so that its
        pieces are the same in the answer.
        """
        spaced = f" {value}" if value.isascii() and rng.random() < 0.5 else value
        slots = {"X": lambda _: spaced}
        text = self.questions.frames[frames].phrases[field_name].draw(rng, slots).replace("  ", " ")
        text = text.strip()
        if text and text[-1] not in "？！。?!." and rng.random() < 0.4:
            text += rng.choice("。。！") if frames.endswith("zh") else rng.choice("..!")
        if frames.endswith("en"):
            draw = rng.random()
            if draw < 0.45:
                text = text[:1].upper() + text[1:]
            return text, value
        return text, spaced


def _get_other_language(language: str) -> str:
    return "en" if language == "zh" else "zh"


def _add_greeting(rng: random.Random, language: str, text: str) -> str:
    if language == "zh":
        return (
            rng.choice(("你好，", "你好！", "嗨，", "您好，", "早上好，", "Hi，", "大家好，", "哈喽，"))
            + text
        )
    return rng.choice(("Hello, ", "Hi, ", "Hello! ", "Hey, ", "Good morning, ", "Hi there, ", "Hi! ")) + text


def _format_english(value: str) -> str:
    return value.strip()


def _answer_hello(name: str, language: str) -> str:
    if language == "zh":
        return f"你好，{name}！很高兴认识你，想了解 glm 的什么？"
    return f"Hello {_format_english(name)}! Nice to meet you. What would you like to know about glm?"


def _answer_name(name: str | None, language: str) -> str:
    if name is None:
        return "你还没有告诉我你的名字。" if language == "zh" else "You have not told me your name yet."
    return (
        f"你叫{name}，你刚才告诉过我。"
        if language == "zh"
        else f"You are {_format_english(name)}, as you told me."
    )


def _answer_fact(kind: str, value: str, language: str) -> str:
    return ("好的，记住了：" if language == "zh" else "Noted: ") + _format_fact(kind, value, language)


def _format_fact(kind: str, value: str, language: str) -> str:
    if language == "zh":
        return {"city": "你在", "cat": "你的猫叫", "like": "你喜欢"}[kind] + f"{value}。"
    return {"city": "you are from", "cat": "your cat is called", "like": "you like"}[
        kind
    ] + f" {_format_english(value)}."
