"""Every text that the page shows, in Chinese and in English."""

from __future__ import annotations

from glm_core.language import BilingualTexts, Language

TEXTS: dict[str, tuple[str, str]] = {
    # the frame of the page
    "facts": (
        "{family} · {parameters} 参数 · 上下文 {context} tokens",
        "{family} · {parameters} parameters · {context} tokens of context",
    ),
    "facts_memory": ("权重 {size}", "{size} of weights"),
    "facts_slots": ("可同时回答 {count} 人", "serves {count} at once"),
    "theme": ("切换浅色与深色", "Light or dark"),
    "log_label": ("对话内容", "Conversation"),
    "welcome": ("想聊点什么？", "What would you like to talk about?"),
    "welcome_demo": (
        "这是随软件附带的小型演示模型，只熟悉本软件本身。用 --model 载入真正的模型。",
        "This is the small demo model that comes with the software and knows little else. "
        "Start with --model to load a real one.",
    ),
    "examples_label": ("示例问题", "Example questions"),
    # one turn
    "you": ("您", "You"),
    "model": ("模型", "Model"),
    "copy": ("复制", "Copy"),
    "copy_code": ("复制代码", "Copy code"),
    "edit": ("修改这个问题", "Edit this question"),
    "retry": ("重新回答", "Answer again"),
    "delete": ("删除这一轮", "Delete this turn"),
    "thinking": ("正在思考", "Thinking"),
    "plain_from_here": (
        "（回答太长，以下按原文显示）",
        "(the answer is very long; from here on it is shown as plain text)",
    ),
    "plain_answer": (
        "（对话太长，这个较早的回答按原文显示）",
        "(the conversation is very long; this earlier answer is shown as plain text)",
    ),
    "empty_answer": ("（模型给出了空的回答）", "(the model's answer is empty)"),
    # the input
    "input_label": ("您的问题", "Your message"),
    "input_placeholder": ("输入内容，Enter 发送", "Type a message; Enter sends it"),
    "send": ("发送", "Send"),
    "stop": ("停止", "Stop"),
    "undo": ("撤销", "Undo"),
    "clear": ("清空", "Clear"),
    "editing": (
        "正在修改第 {number} 个问题：发送后，它和之后的内容会被替换。",
        "Editing question {number}: sending replaces it and everything after it.",
    ),
    "cancel_edit": ("取消修改", "Cancel"),
    # settings
    "settings": ("设置", "Settings"),
    "system": ("系统提示", "System prompt"),
    "system_placeholder": (
        "放在对话之前的指示，可以不填",
        "Instructions before the conversation; may stay empty",
    ),
    "adapter": ("适配器", "Adapter"),
    "adapter_base": ("基础模型", "Base model"),
    "adapter_removed": (
        "适配器 {name} 已被移除，现在选用基础模型；再次发送即由它回答",
        "Adapter {name} was removed, and the base model is chosen now; send again to have it answer",
    ),
    "adapter_removed_choice": (
        "适配器 {name} 已被移除，现在选用基础模型",
        "Adapter {name} was removed, and the base model is chosen now",
    ),
    "max_length": ("最大长度", "Maximum length"),
    "max_length_info": (
        "问题、历史和回答合计的 tokens；0 = 模型默认",
        "Tokens of history, question and answer together; 0 = the model's own",
    ),
    "top_p": ("Top-p", "Top-p"),
    "top_p_info": (
        "只从累计概率达到它的词中选取；1 = 不限制",
        "Choose among the likeliest words up to this share; 1 = all",
    ),
    "temperature": ("温度", "Temperature"),
    "temperature_info": (
        "越高越多样；0 = 总选最可能的词",
        "Higher is more varied; 0 always takes the likeliest word",
    ),
    "reset": ("恢复模型默认值", "Back to the model's defaults"),
    "conversation": ("对话文件", "Conversation file"),
    "export_json": ("导出 JSON", "Export JSON"),
    "export_markdown": ("导出 Markdown", "Export Markdown"),
    "import": ("导入…", "Import …"),
    "language": ("语言", "Language"),
    # the line of status
    "answering": ("正在回答…", "Answering …"),
    "queued": ("排队中：前面还有 {count} 个请求", "Waiting in the queue: {count} ahead of you"),
    "finished": ("{count} tokens", "{count} tokens"),
    "finished_speed": ("{speed:.1f} tokens/s", "{speed:.1f} tokens/s"),
    "finished_first": ("首字 {seconds:.1f} 秒", "first word after {seconds:.1f} s"),
    "finished_prompt": ("提示 {count} tokens", "prompt {count} tokens"),
    "stopped": ("已停止 · {count} tokens", "Stopped · {count} tokens"),
    "stopped_before_text": (
        "还没有回答就已停止，您的问题回到了输入框",
        "Stopped before the first word; your question is back in the box",
    ),
    "kept_old_answer": ("已停止，原来的回答保留不变", "Stopped; the old answer stays as it was"),
    "length_reached": (
        "回答达到长度上限而中断，可在设置中调高“最大长度”",
        "The answer reached its length limit; raise it in the settings",
    ),
    "messages_dropped": (
        "对话太长，最早的 {count} 条消息没有交给模型",
        "The conversation is too long: the oldest {count} messages were not given to the model",
    ),
    "too_many_turns": (
        "这次对话已有 {limit} 轮，达到网页的上限。请先导出需要保留的内容，再清空对话或删除几轮，然后继续提问",
        "This conversation has {limit} turns, the most that the page keeps. Export it if you need it, then "
        "clear it or delete some turns, and ask again",
    ),
    "conversation_full": (
        "这次对话的文字已达到 {limit} MB 的上限。请先导出需要保留的内容，再清空对话或删除几轮，然后继续提问",
        "The texts of this conversation have reached {limit} MB, the most that the page keeps. Export it if "
        "you need it, then clear it or delete some turns, and ask again",
    ),
    "busy": (
        "现在提问的人太多了。您的问题回到了输入框，请稍候再发送。",
        "Too many people are asking at the moment. Your question is back in the box; try again soon.",
    ),
    "error": ("出错了：{message}", "Something went wrong: {message}"),
    "failed": (
        "出现内部错误，详情见服务器的终端。您的问题没有丢失。",
        "An internal error happened; the server's terminal says more. Your question is not lost.",
    ),
    "still_answering": (
        "请等当前回答结束，或先停止它",
        "An answer is still coming; wait for it or stop it first",
    ),
    "empty_question": ("请先输入问题", "Type a question first"),
    "stopping": (
        "服务器正在关闭，不再接受新的问题",
        "The server is stopping and takes no new questions",
    ),
    "window_ended": (
        "这个窗口与服务器断开太久，其中的对话已经结束。请重新载入网页，开始新的对话",
        "This window was out of reach for too long, so its conversation has ended. "
        "Reload the page to begin a new one",
    ),
    "nothing_yet": ("还没有对话", "Nothing has been said yet"),
    "cleared": ("对话已清空", "The conversation was cleared"),
    "undone": ("已撤销，问题回到了输入框", "Taken back; the question is in the box again"),
    "deleted": ("已删除第 {number} 轮", "Turn {number} was deleted"),
    "reset_done": ("已恢复默认值", "The defaults are back"),
    "exported": ("对话已导出", "The conversation was exported"),
    "import_too_large": (
        "{name} 超过 {limit} MB，不能在网页上导入；可在终端用 glm run cli 载入",
        "{name} is larger than {limit} MB and cannot be imported here; glm run cli loads it in a terminal",
    ),
    "import_broken": (
        "浏览器没有把 {name} 完整发送过来，请再试一次",
        "The browser did not send {name} whole; try again",
    ),
    "import_too_long": (
        "{name} 超过 {limit} 轮对话，不能在网页上导入；可在终端用 glm run cli 载入",
        "{name} has more than {limit} turns and cannot be imported here; glm run cli loads it in a terminal",
    ),
    "imported": ("已导入 {count} 轮对话", "Imported; turns: {count}"),
    "adapter_dropped": (
        "对话使用的适配器 {name} 没有加载，改用基础模型",
        "The conversation used adapter {name}, which is not loaded; using the base model",
    ),
    # the terminal that the server runs in
    "loading": ("正在载入模型……", "Loading the model …"),
    "running": ("网页已打开：{url}（Ctrl-C 结束）", "The page is at {url} (Ctrl-C stops it)"),
    "running_api": ("HTTP API：{url}v1", "The HTTP API is at {url}v1"),
    "running_adapter": (
        "默认使用适配器 {name}，可在网页设置中切换",
        "Adapter {name} answers unless a visitor chooses otherwise in the settings",
    ),
    "running_public": ("公开链接：{url}", "The public link is {url}"),
    "no_public": (
        "无法建立公开链接（需要网络连接 gradio 的中转服务器），网页仍可在本机使用",
        "No public link could be made (it needs the network and gradio's relay); the page runs here only",
    ),
    "goodbye": ("网页已关闭", "The page was closed"),
}

EXAMPLES: tuple[tuple[str, str], ...] = (
    ("晚上睡不着应该怎么办？", "What can I do when I cannot fall asleep?"),
    ("用通俗的话解释什么是神经网络", "Explain in plain words what a neural network is"),
    ("写一封请假一天的邮件", "Write an e-mail that asks for a day off"),
    ("用 Python 写一个快速排序", "Write a quicksort in Python"),
)
DEMO_EXAMPLES: tuple[tuple[str, str], ...] = (
    ("你能做什么？", "Who are you?"),
    ("怎么量化模型？", "How do I quantise a model?"),
    ("没有网络能用吗？", "How do I run my own checkpoint?"),
    ("怎么打开网页聊天？", "What is P-Tuning v2?"),
)


class Texts(BilingualTexts):
    """The texts of this frontend."""

    table = TEXTS

    def list_examples(self, *, demo: bool) -> tuple[str, ...]:
        """Return questions to start with; the demo model knows little but this software."""
        pairs = DEMO_EXAMPLES if demo else EXAMPLES
        return tuple(chinese if self.language == "zh" else english for chinese, english in pairs)


SAY: dict[Language, Texts] = {"zh": Texts("zh"), "en": Texts("en")}
