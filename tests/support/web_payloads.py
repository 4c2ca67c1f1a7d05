"""Known ways to smuggle a script into a page; each calls ``hit()`` where it works."""

from __future__ import annotations

PAYLOADS = (
    "<script>hit()</script>",
    "<img src=x onerror=hit()>",
    "<img/src=x/onerror=hit()>",
    '"><svg onload=hit()>',
    "<svg><script>hit()</script></svg>",
    "<svg><animate onbegin=hit() attributeName=x dur=1s>",
    '<iframe src="javascript:parent.hit()"></iframe>',
    '<iframe srcdoc="<script>parent.hit()</script>"></iframe>',
    "<details open ontoggle=hit()>",
    "<input autofocus onfocus=hit()>",
    "<video><source onerror=hit()></video>",
    "<math><mtext><img src=x onerror=hit()></mtext></math>",
    "[link](javascript:hit())",
    "[link](  JaVaScRiPt:hit() )",
    "[link](data:text/html;base64,PHNjcmlwdD5oaXQoKTwvc2NyaXB0Pg==)",
    '![picture](x"onerror="hit())',
    "<javascript:hit()>",
    '```"><img src=x onerror=hit()>\n</code></pre><img src=x onerror=hit()>\n```',
    "$\\text{<img/src=x/onerror=hit()>}$ and $$\\href{javascript:hit()}{x}$$",
    "`<img src=x onerror=hit()>` ${hit()} {{constructor.constructor('hit()')()}} `${hit()}`",
    "```mermaid\n<img src=x onerror=hit()>\n```",
    "| <img src=x onerror=hit()> |\n|---|\n| </td><script>hit()</script> |",
    "[a]: javascript:hit()\n\n[a]",
    "<a href='java&#115;cript:hit()'>x</a> &lt;img src=x onerror=hit()&gt;",
)
