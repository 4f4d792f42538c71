// Moves the sliders between before and after, and changes what is shown after.
for (const box of document.querySelectorAll('.case')) {
  const view = box.querySelector('.view'), range = box.querySelector('input'), pick = box.querySelector('select');
  const show = () => {
    view.style.setProperty('--at', range.value + '%');
    range.setAttribute('aria-valuetext', range.value + ' % before');
    for (const image of view.querySelectorAll('.after')) image.hidden = image.dataset.model !== pick.value;
    view.querySelector('.tag.r').textContent = pick.selectedOptions[0].text;
  };
  range.addEventListener('input', show);
  pick.addEventListener('change', show);
  show();
}
