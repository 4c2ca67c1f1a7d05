"""Scripts that run in the browser before or after an event of the page."""

from __future__ import annotations

REMEMBER_LANGUAGE = """(language, session) => {
  localStorage.setItem("glm-language", language);
  return [language, session];
}"""
REMEMBERED_LANGUAGE = """(language, session) => [localStorage.getItem("glm-language"), session]"""
READY = """(language) => {
  document.documentElement.lang = language;
  document.documentElement.dataset.glm = "ready";
  const settings = document.querySelector("#settings .toggle-button");
  const name = language === "zh" ? "设置" : "Settings";
  for (const attribute of ["aria-label", "title"]) settings?.setAttribute(attribute, name);
}"""
TOGGLE_THEME = """() => {
  const dark = document.body.classList.toggle("dark");
  localStorage.setItem("glm-theme", dark ? "dark" : "light");
}"""
DOWNLOAD = """(text) => {
  const file = JSON.parse(text);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([file.text], { type: file.type }));
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}"""
FOCUS = """() => { document.querySelector("#question textarea")?.focus(); }"""
