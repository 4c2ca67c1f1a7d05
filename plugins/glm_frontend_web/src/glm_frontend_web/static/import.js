// Runs once, inside gradio's HTML component: reads the chosen file and sends it as an event. Nothing is uploaded.
element.addEventListener("change", (event) => {
  const input = event.target;
  const file = input.files?.[0];
  input.value = ""; // so that the same file can be chosen again
  if (!file) return;
  if (file.size > MAX_BYTES) {
    trigger("upload", { name: file.name }); // the server says in the visitor's language what is wrong
    return;
  }
  const reader = new FileReader();
  // A data: address has the content as base64 after its comma; that of an empty file may have no comma.
  reader.onload = () => trigger("upload", { name: file.name, content: reader.result.split(",")[1] ?? "" });
  reader.onerror = () => trigger("upload", { name: file.name, content: "?" });
  reader.readAsDataURL(file);
});
