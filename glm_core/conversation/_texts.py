"""What conversation files, and errors about them, say in Chinese and in English."""

from __future__ import annotations

from ..language import BilingualTexts

_TEXTS: dict[str, tuple[str, str]] = {
    "heading": ("与 {model} 的对话", "Conversation with {model}"),
    "system": ("系统提示", "System prompt"),
    "user": ("用户", "User"),
    "assistant": ("模型", "Model"),
    "tool": ("工具结果", "Tool result"),
    "calls": ("模型 → {names}", "Model → {names}"),
    "message": ("第 {number} 条消息", "message {number}"),
    "message_at_line": ("第 {number} 条消息（第 {line} 行）", "message {number} (line {line})"),
    "too_large": ("{file} 超过 {limit} MB，不予载入", "{file} is larger than {limit} MB and was not loaded"),
    "not_text": (
        "{file} 不是 UTF-8 文本（第 {position} 个字节）",
        "{file} is not UTF-8 text (byte {position}); save it as UTF-8",
    ),
    "not_json": ("{file} 不是有效的 JSON：{reason}", "{file} is not valid JSON: {reason}"),
    "not_our_markdown": (
        "{file} 里没有对话标记；只能载入由 glm 导出的 Markdown",
        "{file} has no conversation marks; only Markdown that glm exported can be loaded",
    ),
    "bad_mark": (
        "{file}：第 {line} 行的对话标记已损坏：{reason}",
        "{file}: the conversation mark in line {line} is damaged: {reason}",
    ),
    "no_messages": (
        "{file} 不是对话文件：缺少 messages。请载入由 glm 导出的文件",
        "{file} is not a conversation: it has no messages. Load a file that glm exported",
    ),
    "wrong_version": (
        "{file} 的格式版本（version）是 {version}，这里只能读取版本 {expected}",
        "{file} has format version {version}; this program reads version {expected}",
    ),
    "wrong_type": ("{file}：{field} 必须是{expected}", "{file}: {field} must be {expected}"),
    "text": ("文字", "text"),
    "list": ("列表", "a list"),
    "object": ("对象", "an object"),
    "bad_message": ("{file}：{where}不能使用：{reason}", "{file}: {where} cannot be used: {reason}"),
    "out_of_turn": (
        "{file}：{where}（{role}）的位置不对或为空；问题和回答必须交替出现，每个工具调用之后必须有它的结果",
        "{file}: {where} ({role}) is out of turn or empty; questions and answers must alternate, and "
        "each tool call must be followed by its result",
    ),
    "unknown_setting": (
        "{file}：settings 里没有 {name} 这个设置。可用：{names}",
        "{file}: settings has an unknown name {name}; known are {names}",
    ),
    "bad_setting": ("{file}：settings 不能使用：{reason}", "{file}: settings cannot be used: {reason}"),
}


class FileTexts(BilingualTexts):
    """The texts of conversation files."""

    table = _TEXTS
