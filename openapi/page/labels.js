/** What screen readers and the keyboard need and Swagger UI leaves out; its elements come and go as one clicks. */
const LABELS = {
  '#servers': 'Server',
  'select.examples-select-element': 'Example',
  'select.content-type': 'Media type',
  'textarea.body-param__text': 'Request body',
  'button:empty, .copy-to-clipboard button': 'Copy',
};

function complete() {
  for (const [selector, label] of Object.entries(LABELS)) {
    for (const element of document.querySelectorAll(`:is(${selector}):not([aria-label])`)) {
      element.setAttribute('aria-label', label);
    }
  }
  // Code that scrolls takes the focus.
  for (const code of document.querySelectorAll('pre.microlight:not([tabindex])')) code.tabIndex = 0;
  // A link inside a button: the button does what it is for.
  for (const link of document.querySelectorAll('button a[href]')) link.removeAttribute('href');
}

let isDue = false;
function later() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    complete();
  });
}

new MutationObserver(later).observe(document.getElementById('swagger-ui'), {
  childList: true,
  subtree: true,
});
