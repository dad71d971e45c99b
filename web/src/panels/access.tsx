/** Asks for the key of a service that wants one. */
import { useEffect, useState } from 'preact/hooks';
import { access, keepKey } from '../service.js';

/** @param entered called when there is another key than before. */
export function Access({ entered }: { entered: () => void }) {
  const [isRefused, setRefused] = useState(false);
  useEffect(() => {
    const refuse = () => setRefused(true);
    access.addEventListener('refused', refuse);
    return () => access.removeEventListener('refused', refuse);
  }, []);
  if (!isRefused) return null;
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    const form = event.currentTarget as HTMLFormElement;
    keepKey(String(new FormData(form).get('key')).trim());
    setRefused(false);
    entered();
  };
  return (
    <form class="card access" onSubmit={submit} aria-label="Access">
      <label>
        This service wants an API key; it is kept until this tab is closed
        <input name="key" type="password" autocomplete="off" required />
      </label>
      <button class="main" type="submit">
        Use this key
      </button>
    </form>
  );
}
