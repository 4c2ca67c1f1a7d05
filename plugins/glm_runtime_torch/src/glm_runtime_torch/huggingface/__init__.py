"""The surface of transformers: ``AutoConfig``, ``AutoTokenizer`` and ``AutoModel`` over our own code.

The network, the tokenizer and the chat format are the runtime's; only the shape that
transformers expects is made here.
"""
