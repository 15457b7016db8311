// Put into a step: the box that it stands in keeps its keys. It is looked for once it is on the page.
function render({ el }) {
  let open = true;
  const settle = () => {
    const box = el.closest(".anb-step");
    if (box) keep(box);
    else if (open) requestAnimationFrame(settle);
  };
  settle();
  return () => { open = false; };
}

export default { render };
