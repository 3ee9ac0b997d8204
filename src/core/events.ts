import type { LogLevel } from './ports.ts';

/**
 * The events of the log: every line begins with one of these names. They do not change between versions, nor do the
 * ids, by which the journal finds them: `journalctl MESSAGE_ID=…`.
 *
 * `level` is the one it usually has. Events of level warn and error, and those that are `notable`, are written to the
 * journal with their id even where that costs a process: docs/decisions/0020.
 */
export const events = {
  'agent.started': event('info', 'db7ec0ec5bba4ad79d5b5aa2fa468651', 'The agent process begins.'),
  'agent.ready': event(
    'info',
    '5543abda29464e2b908084a7edc1e3d6',
    'The agent serves: recorded mounts are taken up, the control socket is open.',
    true,
  ),
  'agent.stopping': event(
    'info',
    'e89f5163fa104405ac4941cf76f1b2ad',
    'The agent was asked to end and waits until its mounts are gone.',
  ),
  'agent.stopped': event('info', 'e75136c07d274e8db05f8ca2d536abcb', 'The agent ends.', true),
  'agent.failed': event(
    'error',
    'a736b74f4e0540c680fb8f3fef290580',
    'The agent ends because of a defect; the next one takes its mounts up.',
  ),
  'config.warning': event(
    'warn',
    '52b684de75ff431aa6a1d8a92bc5f6dc',
    'The configuration has something that has no effect or is not as it should be.',
  ),
  'request.failed': event(
    'warn',
    '4135429144a64b29b5720e71f893b86b',
    'A helper or command was refused; the error is what its user saw. At level error it is a defect of efs-agent.',
  ),
  'undo.failed': event(
    'error',
    'fafcd8c0b7bf4bdd9cb175c669cdf404',
    'What was begun for a caller that died could not be undone.',
  ),
  'log-level.changed': event(
    'info',
    '1d72d855700c488d9d71367a64a54e38',
    'The log level was changed at run time, or went back.',
    true,
  ),
  'log.journal-lost': event(
    'warn',
    '4acc57d836e8437da15d5e3f6a3da023',
    'Entries with a message id cannot be written; the log goes on as lines.',
  ),
  'log.lines-lost': event(
    'warn',
    '27a7649e71988c145a62bd910608087c',
    'Whoever reads the log was too slow or stopped: so many lines were not kept for it.',
  ),
  'mount.done': event(
    'info',
    '4743a127370c43d5ae06f0b1a8674d77',
    'A file system is mounted and recorded.',
    true,
  ),
  'mount.gone': event(
    'info',
    'ad7bc4a4b3ee4e68998a8393d43171b3',
    'A mount is gone from every mount table; its tunnel is closed.',
    true,
  ),
  'mount.restored': event(
    'info',
    '696602ccb5554357be2de24c9d17c746',
    'A mount of an earlier agent was taken up.',
    true,
  ),
  'mount.not-restored': event(
    'error',
    '8153a1494f6f403f83ae97730381b1c6',
    'A recorded mount could not be taken up; its I/O hangs until that is repaired.',
  ),
  'state-file.damaged': event(
    'warn',
    '9590df688d104073ac74511657172460',
    'The record of a mount cannot be read; it was put aside.',
  ),
  'mount.kept': event(
    'warn',
    '1fb1a743f5e74e60a6946a67641e416f',
    'The kernel still has a mount that failed or was given up; its tunnel stays.',
  ),
  'mount.record-lost': event(
    'error',
    '8c4c7b2069a54eb885d5407c4dfb5813',
    'No record of a mount can be read; nothing serves it any more.',
  ),
  'mount-tables.unreadable': event(
    'error',
    '7404c5ccbad443fb9a1b2835356cb22e',
    'The mount tables could not be read; no mount counts as gone.',
  ),
  'state-files.unreadable': event(
    'error',
    '18273c8d874d4f68a220fbeea3bd4ead',
    'The records of mounts could not be read.',
  ),
  'state-file.not-set-aside': event(
    'error',
    'd12c513a743d4e5aaf0bdf8b8a8d4111',
    'A damaged record could not be put aside.',
  ),
  'state-file.not-written': event(
    'error',
    '0f623ab039034fb3b4ccbcffd1b64474',
    'The record of a mount could not be written again.',
  ),
  'state-file.not-removed': event(
    'error',
    '31b34a22b9c34f9ab52cd32402a0a300',
    'The record of a mount that is gone could not be removed.',
  ),
  'worker-socket.unusable': event(
    'error',
    'bc0ed51781c84b6db237eb5cd60b5309',
    'Workers of an earlier agent cannot be found; they go on alone.',
  ),
  'status-socket.unusable': event(
    'warn',
    '709864db631e463b8f807bb24bcc65ec',
    'The group that `status_group` names cannot ask for the status; root still can.',
  ),
  'sweep.failed': event('error', '135fbedddd3c48c08e0d2d380c449d3b', 'The mount tables could not be read.'),
  'listener.opened': event(
    'info',
    '5eb3a340ef1042ff959af005f702fc52',
    'A local port was bound for a tunnel.',
  ),
  'listener.inherited': event(
    'info',
    '1f62110fcf0b46debb6dcc077700b098',
    'A local port was taken over from the agent before.',
  ),
  'listener.closed': event(
    'info',
    'd6f2171a9dce4631b8d99dd7ec72850e',
    'The local port of a tunnel was closed.',
  ),
  'connection.refused': event(
    'warn',
    'ed50294c60854e82a0313cbedf0992cb',
    'A program that is neither the kernel nor root connected to the port of a tunnel.',
  ),
  'name.unresolved': event(
    'warn',
    '0634723f69d244978f4030ad8e3dca02',
    'The name of a mount target has no address at the moment; known ones stay in use.',
  ),
  'client-certificate.issued': event(
    'info',
    '8cab714d98fd427ab815d8462f01a8eb',
    'A client certificate was made.',
  ),
  'client-certificate.not-renewed': event(
    'warn',
    '6a6344d06ab247c8a4c83c2ffb523e6b',
    'A client certificate could not be replaced; the old one stays in use and it is tried again.',
  ),
  'credentials.outage': event(
    'error',
    '9f9951046b374d0891c4baf4e5986f09',
    'Nobody gives credentials any more; connected mounts go on with the certificate they have.',
  ),
  'client-certificate.expired': event(
    'error',
    '0890b2a42bc64ab2b466147e9c484ba1',
    'During an outage of credentials the certificate in use has ended too; new connections may be refused.',
  ),
  'credentials.recovered': event(
    'info',
    '917cfd6a28044c359b6f890dc0646e0b',
    'There are credentials again, and a new client certificate.',
  ),
  'clock.set': event(
    'warn',
    'cb9bd4cab9d94178ac06183f8189cfb9',
    'The clock of this machine was set; client certificates are replaced.',
  ),
  'tunnel.material-rejected': event(
    'error',
    'ae714b06628e40f4b95dc1c076a71d72',
    'The certificates of a tunnel cannot be used.',
  ),
  'identity.started': event(
    'debug',
    'd784538fa6a84f6cb00d8f47899cdc8f',
    'A process that signs certificates begins.',
  ),
  'identity.ended': event(
    'debug',
    'c4524f9b03534ba883f2d276404ce083',
    'A process that signs certificates ended.',
  ),
  'identity.hung': event(
    'error',
    '01df6e7c955240298e53ead3c5d0e21e',
    'A process that signs certificates did not answer and was ended.',
  ),
  'worker.started': event('info', 'aeba427218d64bc18f8ca0d1271e8806', 'A tunnel worker begins.', true),
  'worker.lost': event(
    'error',
    'd2ffcd73d8824145b8f2bb6ccf29e83a',
    'The tunnel worker ended by itself; another one takes its place, and the kernel connects again.',
  ),
  'worker.hung': event(
    'error',
    'cd23d676b4bc4f71a3e939d3a8a8b1d0',
    'The tunnel worker did not answer and was ended; another one takes its place.',
  ),
  'worker.dismissed': event(
    'info',
    '9a48b021ba07434b871397af38914672',
    'The tunnel worker was not needed any more.',
  ),
  'worker.failed': event(
    'error',
    'ca0ecb232dd641578b8003538a53d0f2',
    'The tunnel worker ends because of a defect.',
  ),
  'worker.privileges-kept': event(
    'error',
    'bd3fe379af6b42e7859f01be9aa17ec9',
    'The tunnel worker could not give up root, and ends.',
  ),
  'worker.retiring': event(
    'info',
    'b2a9ab7c27114b2fb0a9072488629b9d',
    'A tunnel worker lets its connections move to the next one.',
  ),
  'worker.retired': event(
    'info',
    'e46205731d0d4e45a4a9da0c5a846f5c',
    'A tunnel worker has no connection left and ends.',
  ),
  'worker.found': event(
    'info',
    '913c0073f5574d0a98b31bb054bbe24d',
    'A tunnel worker of an earlier agent still carries connections.',
  ),
  'worker.misspoke': event(
    'warn',
    'efc83a41b00e4d86825d40b859027357',
    'What called itself a tunnel worker of an earlier agent did not speak as one.',
  ),
  'takeover.started': event(
    'info',
    '2dc90a8130e94c4db550cfd9c9c3e8d0',
    'Another agent process was started to go on in the place of this one.',
  ),
  'takeover.done': event(
    'info',
    '52bbd0978adb4553a4c03a3d91b97f3f',
    'Another agent process serves in the place of this one.',
    true,
  ),
  'takeover.failed': event(
    'error',
    'b45fb659026349c1af3a34e5e9aea19f',
    'Another agent process could not take over; this one goes on.',
  ),
  'session.accepted': event('info', 'fd5c049d219d47e0a0407a65a786fb37', 'The kernel connected to a tunnel.'),
  'session.closed': event(
    'info',
    '272b706b7fba440a81d0521381e8024a',
    'A connection of the kernel ended; at level warn the mount target or the network ended it.',
  ),
  'session.stalled': event(
    'warn',
    'a8fa11b664124d28b74bc9fa25aa200b',
    'A mount target owed an answer and was silent; the connection is given up and another address tried.',
  ),
  'session.unparsed': event(
    'warn',
    '67d936db4d924b6c9c16f72c38c18405',
    'What passes in a connection is not RPC: nothing is known of its requests any more.',
  ),
  'session.widening': event(
    'info',
    '72388e6e31d949a79f9c495e01252b54',
    'More connections are looked for, as the load asks for them.',
  ),
  'session.widened': event(
    'info',
    '1a3d26fcd4a5451a99d3b95c1da5d7a0',
    'How many TLS connections carry a connection of the kernel has changed.',
  ),
  'session.not-widened': event(
    'info',
    '7e1e8440fad5480a8c263698dfddabd1',
    'The mount target has no more connections for the load.',
  ),
  'upstream.connected': event(
    'info',
    '8c74758fd08341d4aad0af9d68a4d582',
    'A TLS connection to a mount target is there.',
  ),
  'upstream.failed': event(
    'warn',
    '87d230c1c84f4cf38dcd5467c3109f26',
    'A mount target could not be reached; it is tried again, and repetitions are at level debug.',
  ),
  'upstream.bind': event(
    'info',
    '6d2c1c9379604004b6777fc6e59ebaaa',
    'Whether a mount target lets several connections act as one.',
  ),
  'certificate.accepted': event(
    'info',
    'a2b9e9157b064462a0b15f0406f5c31b',
    'The certificate of a mount target is trusted and carries the right name.',
  ),
  'cloudwatch.published': event(
    'debug',
    '877f73da49c748fe957a594da95bc871',
    'CloudWatch Logs was told how a mount ended.',
  ),
  'cloudwatch.failed': event(
    'warn',
    'd48c148a10be41ffa688bbada4bbd197',
    'CloudWatch Logs could not be told how a mount ended; repetitions are at level debug.',
  ),
  'cloudwatch.id-unknown': event(
    'warn',
    'ae5d6bd188be4575bce6cb18a3f00a51',
    'The name of the log group wants the id of the file system, which is not known.',
  ),
  'metrics.failed': event(
    'warn',
    'cf3953fb3a734dd3899671ad3563d9a6',
    'The metrics cannot be served at one of their places; it is tried again.',
  ),
} as const;

export type EventName = keyof typeof events;

export interface EventEntry {
  readonly level: LogLevel;
  /** MESSAGE_ID of the journal: 128 bits, hexadecimal. */
  readonly messageId: string;
  /** What it means, for people. */
  readonly text: string;
  readonly notable: boolean;
}

/** The entry of an event; null for one that only another version has. */
export function findEvent(name: string): EventEntry | null {
  return Object.hasOwn(events, name) ? events[name as EventName] : null;
}

function event(level: LogLevel, messageId: string, text: string, notable = false): EventEntry {
  return { level, messageId, text, notable };
}
