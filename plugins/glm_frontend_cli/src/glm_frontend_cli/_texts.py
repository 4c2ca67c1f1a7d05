"""Every text that this frontend shows, in Chinese and in English."""

from __future__ import annotations

from glm_core.language import BilingualTexts

TEXTS: dict[str, tuple[str, str]] = {
    # start and end
    "loading": ("正在载入模型……", "Loading the model …"),
    "banner": ("{model} · {family} · {parameters} 参数", "{model} · {family} · {parameters} parameters"),
    "hint": (
        "输入内容即可对话，Alt-Enter 换行；clear 清空对话，stop 退出，/help 查看全部命令",
        "Type to chat, Alt-Enter for a new line; clear starts over, stop quits, /help lists all commands",
    ),
    "adapters_loaded": (
        "已加载适配器：{names}。用 /adapter NAME 选用",
        "Adapters are loaded: {names}. Choose one with /adapter NAME",
    ),
    "adapter_in_use": (
        "正在使用适配器 {name}，/adapter off 切换回基础模型",
        "Using adapter {name}; /adapter off goes back to the base model",
    ),
    "adapter_dropped": (
        "对话文件使用的适配器 {name} 没有加载，改用基础模型",
        "The conversation used adapter {name}, which is not loaded; using the base model",
    ),
    "no_history_file": (
        "无法写入输入历史文件 {path}（{reason}），本次输入只保存在内存中",
        "Cannot write the history file {path} ({reason}); questions are remembered for this session only",
    ),
    "quit_hint": ("再按一次 Ctrl-C 退出", "Press Ctrl-C again to quit"),
    "goodbye": ("再见", "Bye"),
    # the input line and the toolbar below it
    "placeholder": ("输入问题，/help 查看命令", "Ask something, or /help"),
    "pasted": ("[粘贴 {number}：{lines} 行]", "[paste {number}: {lines} lines]"),
    "status_adapter": ("适配器 {name}", "adapter {name}"),
    "status_turns": ("{count} 轮", "turns: {count}"),
    "status_tokens": ("{count} tokens", "{count} tokens"),
    "status_speed": ("{speed:.1f} tokens/s", "{speed:.1f} tokens/s"),
    "status_first_token": ("首字 {seconds:.2f} 秒", "first token {seconds:.2f} s"),
    "status_context": ("上下文 {percent:.0f}%", "context {percent:.0f}%"),
    "status_editing": (
        "正在修改上一个问题，Ctrl-C 取消",
        "editing the last question, Ctrl-C to leave it as it was",
    ),
    # answering
    "thinking": ("思考中…… {seconds:.0f} 秒（Ctrl-C 停止）", "Thinking … {seconds:.0f} s (Ctrl-C stops)"),
    "waiting": (
        "排队中，前面还有 {count} 个请求…… {seconds:.0f} 秒（Ctrl-C 停止）",
        "Waiting; requests before this one: {count} … {seconds:.0f} s (Ctrl-C stops)",
    ),
    "answering": (
        "{count} tokens · {speed:.1f} tokens/s（Ctrl-C 停止）",
        "{count} tokens · {speed:.1f} tokens/s (Ctrl-C stops)",
    ),
    "stopping": ("正在停止……（再按 Ctrl-C 不再等待）", "Stopping … (Ctrl-C again does not wait for it)"),
    "stopped": ("已停止。/regenerate 重新回答", "Stopped. /regenerate answers again"),
    "stopped_before_text": (
        "还没有回答就已停止，这个问题不计入对话。/regenerate 重新提问，/edit 修改",
        "Stopped before the first word, so the question was left out. /regenerate or /edit asks it again",
    ),
    "length_reached": (
        "回答达到长度上限而中断，可用 /set max_length 或 /set max_new_tokens 调整",
        "The answer reached its length limit; change it with /set max_length or /set max_new_tokens",
    ),
    "messages_dropped": (
        "对话太长，最早的 {count} 条消息没有交给模型",
        "The conversation is too long; the oldest messages were left out: {count}",
    ),
    "empty_answer": ("（模型给出了空的回答）", "(the model's answer is empty)"),
    "busy": (
        "模型正忙，排队已满，这个问题没有提交；稍后用 /regenerate 重新提问",
        "The model is busy and its queue is full, so nothing was asked; try /regenerate in a moment",
    ),
    "error": ("错误：{message}", "Error: {message}"),
    # commands
    "unknown_command": (
        "没有 {name} 这个命令。{guess}/help 查看全部命令；以 // 开头可发送斜杠文字",
        "There is no command {name}. {guess}/help lists all; start with // to send text with a slash",
    ),
    "guess": ("您是否想输入 {name}？", "Did you mean {name}? "),
    "usage": ("用法：{usage}", "Usage: {usage}"),
    "nothing_yet": ("还没有对话", "Nothing has been said yet"),
    "cleared": ("对话已清空", "The conversation was cleared"),
    "undone": ("已撤销：{question}", "Taken back: {question}"),
    "same_seed": (
        "seed 固定为 {seed}，回答不会变化；/set seed default 取消",
        "seed is fixed to {seed}, so the answer will be the same; /set seed default lifts that",
    ),
    "edit_kept": ("上一个问题保持不变", "The last question was left as it was"),
    "copied": ("已复制到剪贴板", "Copied to the clipboard"),
    "copy_sent": (
        "已请求终端复制到剪贴板（OSC 52，有的终端不支持）",
        "Asked the terminal to copy it (OSC 52, which some terminals ignore)",
    ),
    "copy_impossible": ("只有在终端里才能复制", "Copying works in a terminal only"),
    "no_code": ("上一个回答里没有代码块", "The last answer has no code block"),
    "file_sent": ("已附上 {path}（{lines} 行）", "With {path} (lines: {lines})"),
    "saved": ("已保存到 {path}", "Saved to {path}"),
    "file_exists": (
        "{path} 已存在。用 /save! {path} 覆盖，或换一个文件名",
        "{path} exists. Use /save! {path} to overwrite it, or another name",
    ),
    "loaded": ("已从 {path} 载入 {count} 轮对话", "Loaded {path}; turns: {count}"),
    "question_waits": (
        "最后一个问题还没有回答，/regenerate 让模型回答",
        "The last question has no answer yet; /regenerate asks it",
    ),
    "system_is": ("系统提示：{text}", "System prompt: {text}"),
    "system_none": ("没有系统提示。/system TEXT 设置", "No system prompt. /system TEXT sets one"),
    "system_set": ("系统提示已设置", "The system prompt was set"),
    "system_removed": ("系统提示已去除", "The system prompt was removed"),
    "adapter_none_loaded": (
        "没有加载适配器。用 /adapter add NAME=DIR 加载，或启动时用 --adapter NAME=DIR",
        "No adapter is loaded. /adapter add NAME=DIR loads one, as --adapter NAME=DIR does at the start",
    ),
    "adapter_list": ("适配器：{names}；当前：{current}", "Adapters: {names}; in use: {current}"),
    "adapter_base": ("基础模型", "the base model"),
    "adapter_unknown": (
        "没有加载名为 {name} 的适配器。已加载：{names}",
        "Adapter {name} is not loaded. Loaded: {names}",
    ),
    "adapter_added": (
        "已加载适配器 {name}，用 /adapter {name} 选用",
        "Adapter {name} was loaded; /adapter {name} chooses it",
    ),
    "adapter_removed": ("已移除适配器 {name}", "Adapter {name} was removed"),
    "adapter_now": ("当前使用：{current}", "Now in use: {current}"),
    "setting": ("{name} = {value}", "{name} = {value}"),
    "setting_default": ("{name} = {value}（默认）", "{name} = {value} (default)"),
    "value_random": ("随机", "random"),
    "value_unlimited": ("不限", "no limit"),
    "unknown_setting": (
        "没有 {name} 这个设置。可用：{names}",
        "There is no setting {name}. Known are: {names}",
    ),
    "info": (
        "模型      {model}\n结构      {family}\n参数量    {parameters}\n上下文    {context} tokens\n"
        "计算      {place}\n"
        "适配器    {adapters}\n对话      {turns} 轮",
        "Model       {model}\nFamily      {family}\nParameters  {parameters}\nContext     {context} tokens\n"
        "Computes    {place}\n"
        "Adapters    {adapters}\nTurns       {turns}",
    ),
    "info_answer": (
        "上次回答  问题 {prompt} tokens，回答 {count} tokens，{speed:.1f} tokens/s，"
        "首字 {first:.2f} 秒，其中排队 {queue:.2f} 秒",
        "Last answer {prompt} tokens of prompt, {count} of answer, {speed:.1f} tokens/s, "
        "first token after {first:.2f} s, {queue:.2f} s of it waiting",
    ),
    "none": ("无", "none"),
    "unknown": ("未知", "unknown"),
    # the help of each command, and how it is typed
    "help_help": ("显示这份说明", "show this list"),
    "help_clear": (
        "清空对话历史（也可只输入 clear）",
        "forget the conversation (the word clear alone does it too)",
    ),
    "help_exit": (
        "退出（也可只输入 stop，或按 Ctrl-D）",
        "quit (so does the word stop alone, and Ctrl-D)",
    ),
    "help_regenerate": ("重新回答上一个问题", "answer the last question again"),
    "help_undo": ("撤销上一轮问答", "take back the last question and its answer"),
    "help_edit": ("修改上一个问题后重新提问", "change the last question and ask it again"),
    "help_file": (
        "附上文本文件提问；不写问题则发送文件内容",
        "ask about a text file, or send its text",
    ),
    "help_copy": (
        "复制上一个回答，或其中最后一个代码块",
        "copy the last answer, or the last code block in it",
    ),
    "help_save": (
        "保存对话：JSON，或以 .md 结尾的 Markdown",
        "save the conversation as JSON, or as Markdown (.md)",
    ),
    "help_save!": ("保存并覆盖已有文件", "save and overwrite an existing file"),
    "help_load": ("载入保存或导出的对话（JSON 或 Markdown）", "go on with a saved or exported conversation"),
    "help_system": ("查看、设置或去除系统提示", "show, set or remove the system prompt"),
    "help_adapter": ("查看、选用、加载或移除适配器", "show, choose, load or remove adapters"),
    "help_set": (
        "查看或修改生成设置；default 恢复默认",
        "show or change how answers are made",
    ),
    "help_info": ("显示模型信息", "show facts about the model"),
    "help_history": ("显示全部对话", "show the whole conversation"),
    "help_footer": (
        "以 // 开头可发送斜杠文字。Alt-Enter、Ctrl-J 或行末加 \\ 再 Enter 换行，Ctrl-X Ctrl-E 打开编辑器，"
        "Ctrl-C 停止回答，Ctrl-R 搜索输入历史。",
        "Start with // to send text with a slash. Alt-Enter, Ctrl-J, or \\ and Enter make a new line, "
        "Ctrl-X Ctrl-E opens an editor, Ctrl-C stops an answer, Ctrl-R searches what you typed before.",
    ),
    # files
    "cannot_write": ("无法写入 {path}：{reason}", "Cannot write {path}: {reason}"),
    "cannot_read": ("无法读取 {path}：{reason}", "Cannot read {path}: {reason}"),
    "no_such_file": ("没有 {path} 这个文件", "There is no file {path}"),
    "too_large": ("{path} 超过 {limit} MB，不予载入", "{path} is larger than {limit} MB and was not loaded"),
    "not_text": ("{path} 不是文本文件", "{path} is not a text file"),
    "empty_file": ("{path} 是空的", "{path} is empty"),
}


class Texts(BilingualTexts):
    """The texts of this frontend."""

    table = TEXTS
