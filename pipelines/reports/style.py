"""The style sheet of a data card; it stands in the page itself. Light and dark, wide and narrow."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--ink:#1b2127;--faint:#59646f;--paper:#fff;--panel:#f3f5f7;--line:#d8dee4;--mat:#e7ebef;
--s0:#2b6cb0;--s1:#d9770b;--s2:#8c96a1;--s3:#b4423c}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ec;--faint:#9eaab6;--paper:#14181c;--panel:#1f252b;--line:#343c45;--mat:#2b323a;
--s0:#6aa8e6;--s1:#eda04a;--s2:#77828d;--s3:#e0736c}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:72rem;padding:1.5rem 1.25rem 4rem;background:var(--paper);color:var(--ink);
font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;overflow-wrap:anywhere}
h1{font-size:1.9rem;line-height:1.2;margin:.1rem 0 .6rem}
h1 span{font-weight:400}
h2{font-size:1.35rem;margin:0 0 .5rem}
h3{font-size:1rem;margin:1.5rem 0 .5rem}
small,.kind,.where,.axis,.facts,.message{color:var(--faint)}
p{margin:.4rem 0;max-width:46rem}
small{font-size:.82rem;font-weight:400}
code,pre{font-family:ui-monospace,"SF Mono",Menlo,Consolas,monospace;font-size:.86em}
pre{overflow-x:auto;padding:.8rem;background:var(--panel);border-radius:.4rem;overflow-wrap:normal}
i{display:inline-block}
.kind{font-size:.8rem;letter-spacing:.08em;text-transform:uppercase;margin:0}
.where{font-size:.88rem}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;margin-top:1rem;font-size:.92rem}
a{color:var(--s0);text-underline-offset:.18em}
section{border-top:1px solid var(--line);margin-top:1.8rem;padding-top:1.4rem}
.s0{background:var(--s0);fill:var(--s0)}.s1{background:var(--s1);fill:var(--s1)}
.s2{background:var(--s2);fill:var(--s2)}.s3{background:var(--s3);fill:var(--s3)}
.bar{display:flex;gap:2px;height:1.1rem;margin:.9rem 0;border-radius:.3rem;overflow:hidden}
.bar i{min-width:3px;flex-basis:0}
ul{list-style:none;margin:0;padding:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:.9rem 1.2rem;line-height:1.35}
.tiles b{font-size:1.5rem;font-variant-numeric:tabular-nums}
.tiles i,.chart li i{width:.7rem;height:.7rem;border-radius:.15rem;margin-right:.4rem}
.wide{overflow-x:auto;overflow-wrap:normal}
table{border-collapse:collapse;font-size:.92rem;line-height:1.4}
th,td{text-align:left;vertical-align:top;padding:.3rem 1.2rem .3rem 0;border-bottom:1px solid var(--line);
font-weight:400}
thead th{color:var(--faint);font-size:.85rem}
thead th:empty{padding:0}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
figure{margin:0;min-width:0}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1.2rem 2.5rem;
margin-top:1rem}
.chart{max-width:30rem}
.chart figcaption{display:flex;flex-wrap:wrap;gap:0 1rem}
.chart ul{display:flex;gap:1rem;font-size:.88rem}
.axis{font-size:.82rem;margin:0}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--faint);font-size:11px;font-variant-numeric:tabular-nums}
svg .y{text-anchor:end}
.grid,.two{display:grid;gap:1rem .8rem}
svg .grid{stroke:var(--line)}
.grid{grid-template-columns:repeat(auto-fill,minmax(10.4rem,1fr))}
.grid figure,.two figure{font-size:.82rem;line-height:1.35}
img,.none{display:block;width:100%;height:8.6rem;object-fit:scale-down;background:var(--mat);border-radius:.3rem}
.none{display:flex;flex-direction:column;justify-content:center;text-align:center;padding:.5rem;color:var(--faint);
overflow:hidden;background:none;border:1px dashed var(--s2)}
figcaption{margin-top:.3rem}
figcaption span{display:block}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20.5rem),1fr));gap:1rem;margin-top:.8rem}
article{background:var(--panel);border-radius:.5rem;padding:.8rem;min-width:0}
article p{font-size:.88rem;margin:0 0 .5rem}
.two{grid-template-columns:1fr 1fr}
.words{display:flex;flex-wrap:wrap;gap:.3rem;margin-bottom:.5rem;font-size:.8rem}
.words li{border:1px solid var(--s2);border-radius:1rem;padding:0 .6rem}
details{margin-top:.4rem;font-size:.92rem}
summary{cursor:pointer;color:var(--faint)}
@media(max-width:30rem){body{padding:1rem .9rem 3rem}h1{font-size:1.5rem}.tiles{grid-template-columns:1fr 1fr}
.grid{grid-template-columns:1fr 1fr}th,td{padding-right:.7rem}}
"""
