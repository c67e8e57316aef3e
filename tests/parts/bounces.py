"""Mails that come back, as the usual servers write them, and some that look alike. Written for the tests."""

from __future__ import annotations

from typing import Final

BOUNCED: Final = "bob@elsewhere.test"
"""Whom none of these mails reached."""


def mail(head: str, body: str) -> bytes:
    """With CRLF, as on the wire."""
    return f"{head.strip()}\n\n{body.strip()}\n".replace("\n", "\r\n").encode()


def report(
    status: str = "5.1.1",
    action: str = "failed",
    *,
    recipient: str = BOUNCED,
    diagnostic: str = "smtp; 550 5.1.1 <bob@elsewhere.test>: no such user",
    more: str = "",
) -> bytes:
    """A delivery report as Postfix writes it (RFC 3464). ``more``: groups of further recipients."""
    return mail(
        """
From: MAILER-DAEMON@mx.elsewhere.test (Mail Delivery System)
To: tld-ops-bounce+1-abc@lists.test
Subject: Undelivered Mail Returned to Sender
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="B1/mx.elsewhere.test"
""",
        f"""
This is a MIME-encapsulated message.

--B1/mx.elsewhere.test
Content-Description: Notification
Content-Type: text/plain; charset=us-ascii

This is the mail system at host mx.elsewhere.test.

I'm sorry to have to inform you that your message could not
be delivered to one or more recipients. It's attached below.

                   The mail system

<{recipient}>: see the report

--B1/mx.elsewhere.test
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.elsewhere.test
X-Postfix-Queue-ID: 34F80326BA4
Arrival-Date: Mon,  9 Feb 2026 12:36:39 +0200 (EET)

Final-Recipient: rfc822; {recipient}
Original-Recipient: rfc822;{recipient}
Action: {action}
Status: {status}
Diagnostic-Code: {diagnostic}
{more}
--B1/mx.elsewhere.test
Content-Description: Undelivered Message
Content-Type: message/rfc822

From: tld-ops@lists.test
To: tld-ops@lists.test
Subject: [tld-ops] Encrypted message

-----BEGIN PGP MESSAGE-----
--B1/mx.elsewhere.test--
""",
    )


EXIM: Final = mail(
    """
Return-Path: <>
X-Failed-Recipients: bob@elsewhere.test
From: Mail Delivery System <Mailer-Daemon@mx.elsewhere.test>
To: tld-ops-bounce+1-abc@lists.test
Subject: Mail delivery failed: returning message to sender
""",
    """
This message was created automatically by mail delivery software.

A message that you sent could not be delivered to one or more of its
recipients. This is a permanent error. The following address(es) failed:

  bob@elsewhere.test
    Unrouteable address

------ This is a copy of the message, including all the headers. ------

From: tld-ops@lists.test
To: ada@somewhere.test
""",
)

QMAIL: Final = mail(
    """
From: MAILER-DAEMON@mx.elsewhere.test
To: tld-ops-bounce+1-abc@lists.test
Subject: failure notice
""",
    """
Hi. This is the qmail-send program at mx.elsewhere.test.
I'm afraid I wasn't able to deliver your message to the following addresses.
This is a permanent error; I've given up. Sorry it didn't work out.

<bob@elsewhere.test>:
Sorry, no mailbox here by that name. (#5.1.1)

--- Below this line is a copy of the message.

Return-Path: <tld-ops@lists.test>
From: tld-ops@lists.test
""",
)

QMAIL_FULL: Final = QMAIL.replace(
    b"Sorry, no mailbox here by that name. (#5.1.1)", b"Message rejected. Not enough storage space in user's mailbox."
)

EXCHANGE: Final = mail(
    """
From: System Administrator <postmaster@elsewhere.test>
To: tld-ops-bounce+1-abc@lists.test
Subject: =?windows-1252?Q?Undeliverable=3A_=5Btld-ops=5D_Encrypted_message?=
Content-Type: multipart/mixed; boundary="----_=_NextPart_000"
""",
    """
------_=_NextPart_000
Content-Type: text/plain; charset="windows-1252"
Content-Transfer-Encoding: quoted-printable

Your message

  To:      tld-ops@lists.test
  Subject: [tld-ops] Encrypted message

did not reach the following recipient(s):

bob@elsewhere.test
    The e-mail account does not exist at the organiz=
ation this message was sent to.

------_=_NextPart_000
Content-Type: message/rfc822

From: tld-ops@lists.test

------_=_NextPart_000--
""",
)

HTML_ONLY: Final = mail(
    """
From: Mail Delivery Subsystem <mailer-daemon@mx.elsewhere.test>
To: tld-ops-bounce+1-abc@lists.test
Subject: Delivery Status Notification (Failure)
Content-Type: text/html; charset=utf-8
""",
    "<html><body><p>Your message wasn&#39;t delivered to</p><p><b>bob@elsewhere.test</b></p>"
    "<p>because the address couldn&#39;t be found.</p></body></html>",
)

LATE: Final = mail(
    """
From: Mail Delivery Subsystem <mailer-daemon@mx.elsewhere.test>
To: tld-ops-bounce+1-abc@lists.test
Subject: Delivery Status Notification (Delay)
""",
    """
THIS IS A WARNING MESSAGE ONLY.

Delivery to the following recipient has been delayed:

     bob@elsewhere.test

Message will be retried for 2 more day(s)
""",
)

UNCLEAR: Final = mail(
    """
From: postmaster@elsewhere.test
To: tld-ops-bounce+1-abc@lists.test
Subject: Mail System Error - Returned Mail
""",
    """
'bob@elsewhere.test' is having a bad day.
""",
)

VACATION: Final = mail(
    """
From: Bob <bob@elsewhere.test>
To: tld-ops-bounce+1-abc@lists.test
Subject: Out of office: [tld-ops] Encrypted message
Auto-Submitted: auto-replied (vacation)
Precedence: bulk
""",
    "I am away until Monday. My mailbox is full of joy, and mail@elsewhere.test is not read.",
)

UNSIGNED_VACATION: Final = mail(
    """
From: Bob <bob@elsewhere.test>
To: tld-ops-bounce+1-abc@lists.test
Subject: Out of office
""",
    "I am away until Monday.",
)

RECEIPT: Final = mail(
    """
From: Bob <bob@elsewhere.test>
To: tld-ops-bounce+1-abc@lists.test
Subject: Read: [tld-ops] Encrypted message
Content-Type: multipart/report; report-type=disposition-notification; boundary="b2"
""",
    """
--b2
Content-Type: text/plain

Your message could not be delivered any better: it was read.

--b2
Content-Type: message/disposition-notification

Final-Recipient: rfc822; bob@elsewhere.test
Disposition: manual-action/MDN-sent-manually; displayed

--b2--
""",
)

COMPLAINT: Final = mail(
    """
From: MAILER-DAEMON@mx.elsewhere.test
To: tld-ops-bounce+1-abc@lists.test
Subject: Undeliverable? No: a complaint
Content-Type: multipart/report; report-type=feedback-report; boundary="b3"
""",
    """
--b3
Content-Type: text/plain

A reader pressed the button.

--b3
Content-Type: message/feedback-report

Feedback-Type: abuse
Original-Rcpt-To: bob@elsewhere.test

--b3--
""",
)

PERSONS: Final = mail(
    """
From: Bob <bob@elsewhere.test>
To: tld-ops-bounce+1-abc@lists.test
Subject: Re: Undelivered Mail Returned to Sender
""",
    """
Colleagues, this came to me; what is it?

> Hi. This is the qmail-send program at mx.elsewhere.test.
> I'm afraid I wasn't able to deliver your message to the following addresses.
>
> <bob@elsewhere.test>:
> Sorry, no mailbox here by that name. (#5.1.1)
""",
)
