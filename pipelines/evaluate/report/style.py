"""The style sheet and the script of an evaluation's report; both stand in the page itself, over the data card's."""

from __future__ import annotations

from pipelines.reports import STYLE as CARD_STYLE

STYLE = (
    CARD_STYLE
    + """
td.best{font-weight:700}
tr.input th,tr.input td{color:var(--faint)}
th small,td small{display:block;white-space:nowrap}
.warn{border-left:.25rem solid var(--s3);padding:.2rem .8rem;background:var(--panel);border-radius:.2rem}
.published{border:1px dashed var(--s2);border-radius:.5rem;padding:.2rem 1rem 1rem;margin-top:.8rem}
.cases{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,24rem),1fr));gap:1rem;margin-top:.8rem}
.case .view{position:relative;overflow:hidden;border-radius:.3rem;background:var(--mat)}
.case .view img{display:block;width:100%;height:auto;object-fit:fill;border-radius:0}
.case .view img.after{position:absolute;inset:0;height:100%;clip-path:inset(0 0 0 var(--at,50%))}
.case .view img[hidden]{display:none}
.case .edge{position:absolute;top:0;bottom:0;left:var(--at,50%);width:2px;margin-left:-1px;background:#fff;
box-shadow:0 0 3px #000}
.case .tag{position:absolute;bottom:.4rem;padding:0 .45rem;border-radius:.2rem;font-size:.75rem;background:#000a;
color:#fff}
.case .tag.l{left:.4rem}.case .tag.r{right:.4rem}
.case input{display:block;width:100%;margin:.5rem 0 .3rem;accent-color:var(--s0)}
.case label{font-size:.82rem;color:var(--faint)}
.case select{font:inherit;max-width:100%;color:var(--ink);background:var(--paper);border:1px solid var(--s2);
border-radius:.25rem;padding:.1rem .2rem}
.case table{font-size:.8rem;margin-top:.5rem;width:100%}
.case th,.case td{padding:.15rem .5rem .15rem 0}
svg .row{fill:var(--ink)}
svg .box{fill:var(--s0);opacity:.25}
svg .mid{stroke:var(--s0);stroke-width:2}
svg .whisker{stroke:var(--s0)}
svg .dot{fill:var(--s0);opacity:.55}
svg .mean{fill:var(--s1)}
input:focus-visible,select:focus-visible,a:focus-visible,summary:focus-visible{outline:2px solid var(--s1);
outline-offset:2px}
"""
)

SCRIPT = """
for (const box of document.querySelectorAll('.case')) {
  const view = box.querySelector('.view'), range = box.querySelector('input'), pick = box.querySelector('select');
  const show = () => {
    view.style.setProperty('--at', range.value + '%');
    range.setAttribute('aria-valuetext', range.value + ' % before');
    if (!pick) return;
    for (const image of view.querySelectorAll('.after')) image.hidden = image.dataset.model !== pick.value;
    view.querySelector('.tag.r').textContent = pick.value;
  };
  range.addEventListener('input', show);
  if (pick) pick.addEventListener('change', show);
  show();
}
"""
